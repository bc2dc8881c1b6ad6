"""Connections of the host's within private networks. All of it is in namespaces that the tests make."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import pytest

from copper.net import echo, namespaces
from copper.net.addresses import GATEWAY
from tests.unit.places import within
from tests.unit.test_net_private import HEARD_S, QUIET_S, Wire, pytestmark, wire

__all__ = ["pytestmark", "wire"]


async def test_the_host_connects_within_the_virtual_cluster_that_it_means(wire: Wire) -> None:
    """Both have a listener at the same address and port, and each connection meets its own."""
    listeners: dict[str, socket.socket] = {}
    port = 0
    for cluster in ("a", "b"):
        await wire.plug(cluster, 0)
        listeners[cluster] = within(
            wire.networks.namespace_of(cluster),
            partial(socket.create_server, (GATEWAY, port)),
        )
        port = listeners[cluster].getsockname()[1]
    for cluster, listener in listeners.items():
        listener.settimeout(HEARD_S)
        made = await wire.networks.connect(cluster, GATEWAY, port)
        with made, listener.accept()[0] as met:
            assert met.getpeername() == made.getsockname()
            met.sendall(cluster.encode())
            made.settimeout(HEARD_S)
            assert made.recv(1).decode() == cluster
        listener.close()
    with pytest.raises(ConnectionRefusedError):
        await wire.networks.connect("a", GATEWAY, port)


async def test_an_echo_is_of_the_virtual_cluster_that_is_meant(wire: Wire) -> None:
    """The host's end answers by itself; who is not there does not."""
    await wire.plug("a", 0)
    async with asyncio.timeout(HEARD_S):
        await wire.networks.ping("a", GATEWAY, times=3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await wire.networks.ping("a", "10.0.0.9", times=1)


def test_only_the_echo_that_was_asked_for_is_taken() -> None:
    asked = echo.request(7)
    header = b"\x45" + bytes(19)
    answer = header + b"\0" + asked[1:]
    assert echo.is_reply(answer, 7)
    assert not echo.is_reply(answer, 8)
    assert not echo.is_reply(header + asked, 7)  # a question
    for length in range(len(header) + 8):
        assert not echo.is_reply(answer[:length], 7)


def test_the_first_thread_stays_in_the_network_of_the_process() -> None:
    """Whatever the process starts would be in it, and find none of the world's names."""
    for leave in (partial(namespaces.enter, "none"), namespaces.new_thread_namespace):
        with pytest.raises(RuntimeError, match="does not leave its network"):
            leave()
