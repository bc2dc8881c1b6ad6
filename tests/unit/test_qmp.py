"""Connections to QEMU's monitor come and go with VMs: nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

from copper.vmm.qmp import Monitor


def test_a_monitor_that_is_gone_leaves_no_logger() -> None:
    Monitor()
    before = len(logging.root.manager.loggerDict)
    for _ in range(10):
        Monitor()
    assert len(logging.root.manager.loggerDict) == before


async def test_what_a_qemu_says_unasked_is_not_kept() -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    loop, monitor = asyncio.get_running_loop(), Monitor()
    await monitor.take_over(here)
    try:
        for name in ("STOP", "RESUME", "SHUTDOWN"):
            event = {"event": name, "data": {"reason": "guest-reset"}, "timestamp": {}}
            await loop.sock_sendall(there, json.dumps(event).encode() + b"\n")
        async with asyncio.timeout(20):
            while monitor.shutdown.empty():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert monitor._client.events.empty()
        assert monitor.last_words() == "the guest rebooted"
    finally:
        there.close()
        await monitor.close()
