"""Connections of the host's within private networks. All of it is in namespaces that the tests make."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from copper.net import namespaces
from copper.net.addresses import GATEWAY
from tests.unit.test_net_private import HEARD_S, Wire, pytestmark, wire

__all__ = ["pytestmark", "wire"]


@contextlib.contextmanager
def within(namespace: str) -> Iterator[None]:
    """Sockets that are made here are of this network, for as long as they live."""
    namespaces.enter(namespace)
    try:
        yield
    finally:
        namespaces.go_home()


async def test_the_host_connects_within_the_virtual_cluster_that_it_means(wire: Wire) -> None:
    """Both have a listener at the same address and port, and each connection meets its own."""
    listeners: dict[str, socket.socket] = {}
    port = 0
    for cluster in ("a", "b"):
        await wire.plug(cluster, 0)
        with within(wire.networks.namespace_of(cluster)):
            listeners[cluster] = socket.create_server((GATEWAY, port))
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
