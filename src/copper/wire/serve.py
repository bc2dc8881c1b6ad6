"""Where an HTTP server listens: a Unix socket, and an address that others may reach only with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from copper.model.errors import BadInput, Conflict, CopperError
from copper.model.settings import Settings
from copper.wire.app import App

log = logging.getLogger(__name__)

WAITING_MOST = 512  # connections that wait to be accepted
END_S = 2  # how long what is being answered may take at the end


@dataclasses.dataclass(frozen=True)
class Address:
    """Where to listen besides the Unix socket. `cert` and `key` are PEM files, empty without TLS."""

    host: str
    port: int
    cert: str = ""
    key: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.cert else 'http'}://{host}:{self.port}"


@dataclasses.dataclass(frozen=True)
class Listener:
    """An open socket and what answers there."""

    app: App
    sock: socket.socket
    address: Address | None = None  # None: a Unix socket


def address_of(settings: Settings) -> Address | None:
    """What COPPER_LISTEN and COPPER_TLS_… say, None where nothing does.

    Raises BadInput: no address, files that are no certificate and its key, an address that others reach without TLS.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if not settings.listen:
        return None
    host, colon, port = settings.listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise BadInput(
            f"COPPER_LISTEN={settings.listen!r:.80}",
            advice="expected HOST:PORT, such as 127.0.0.1:7676 or [::]:7676",
        )
    if bool(cert) != bool(key):
        raise BadInput("COPPER_TLS_CERT and COPPER_TLS_KEY are needed both")
    if cert:
        _check_pair(cert, key)
    elif not is_loopback(host):
        raise BadInput(
            f"COPPER_LISTEN={settings.listen!r:.80} can be reached from elsewhere, and needs TLS",
            advice="set COPPER_TLS_CERT and COPPER_TLS_KEY, or listen on 127.0.0.1",
        )
    return Address(host, int(port), cert, key)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may become any address


def _check_pair(cert: str, key: str) -> None:
    for variable, path in (("COPPER_TLS_CERT", cert), ("COPPER_TLS_KEY", key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise BadInput(
                f"{variable}={path!r:.200}: {error.strerror}", advice="expected a PEM file"
            ) from None
    try:
        # an encrypted key would be asked for on a terminal that is not there
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise BadInput(
            f"COPPER_TLS_CERT and COPPER_TLS_KEY are not a certificate and its key: {reason}",
            advice="expected PEM files that belong together, the key not encrypted",
        ) from None


@contextlib.contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Listens at a path that only its owner may open; it is gone at the end."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(WAITING_MOST)
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def tcp_socket(address: Address) -> Iterator[socket.socket]:
    """Listens at an address; port 0 takes a free one. Raises BadInput, Conflict when it is taken."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BadInput(f"COPPER_LISTEN: {address.host!r:.80}: {error.strerror}") from None
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(where)
        except OSError as error:
            raise Conflict(f"cannot listen at {address}: {error.strerror}") from None
        sock.listen(WAITING_MOST)
        yield sock


class _Server(uvicorn.Server):
    """One of several servers: who runs them takes the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    listeners: Sequence[Listener],
    began: Callable[[], Awaitable[None]] | None = None,
    end: asyncio.Event | None = None,
) -> None:
    """Serves until `end` is set, or without one until the process is told to end.

    `began` is what else there is to do once it serves; what it raises ends the serving.
    """
    servers = [_Server(_config(listener)) for listener in listeners]
    if end is None:
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener.sock]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    ending = asyncio.create_task(end.wait())
    try:
        for listener in listeners:
            log.info("serving on %s", listener.address or listener.sock.getsockname())
        if began is not None:
            beginning = asyncio.ensure_future(began())
            try:
                await asyncio.wait([beginning, ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
                if beginning.done():
                    beginning.result()
            finally:
                beginning.cancel()
                await asyncio.gather(beginning, return_exceptions=True)
        await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for server in servers:
            server.should_exit = True
        ending.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise CopperError(f"the API's server ended: {result}") from result


def _config(listener: Listener) -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if listener.address is not None and listener.address.cert:
        tls = {"ssl_certfile": listener.address.cert, "ssl_keyfile": listener.address.key}
    return uvicorn.Config(
        listener.app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=END_S,
        ws_max_size=1 << 20,
        ws_ping_interval=None,
        server_header=False,
        **tls,
    )
