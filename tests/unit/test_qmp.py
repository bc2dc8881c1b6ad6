"""Connections to QEMU's monitor come and go with VMs: nothing of them stays."""

from __future__ import annotations

import logging

from copper.vmm.qmp import Monitor


def test_a_monitor_that_is_gone_leaves_no_logger() -> None:
    Monitor()
    before = len(logging.root.manager.loggerDict)
    for _ in range(10):
        Monitor()
    assert len(logging.root.manager.loggerDict) == before
