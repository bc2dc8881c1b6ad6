"""HTTP requests by the standard library: a listing is done in 30 ms, where importing a larger
client would take four times as long before anything is asked."""

from __future__ import annotations

import functools
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any

from copper.client.problems import error_of
from copper.client.target import Target
from copper.model.errors import BadInput, CopperError, Refused, TimedOut


class NotRunning(CopperError):
    """Nobody listens there."""

    def __init__(self, message: str = "Copper does not run here", advice: str = "") -> None:
        super().__init__(message, advice=advice or "start it: copper up")


class Broken(CopperError):
    """The connection broke before there was a whole answer: what was asked for may have been done."""


@dataclass(frozen=True)
class Answer:
    """What a request was answered with; never an error."""

    status: int
    headers: Message
    body: bytes

    @property
    def kind(self) -> str:
        """The content's type, without its parameters."""
        return self.headers.get_content_type()

    def json(self) -> Any:
        """The body's JSON, None for an empty one. Raises CopperError for anything else."""
        return json_of(self.body)


class _Connection(http.client.HTTPConnection):
    """HTTP to a target."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self._target = target

    def connect(self) -> None:
        self.sock = connect(self._target, self.timeout)


def connect(target: Target, timeout_s: float | None) -> socket.socket:
    """A connection to the target, certificate checked. Raises OSError."""
    if target.socket is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(str(target.socket))
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((target.host, target.port), timeout_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls:
            return _authorities(target.ca).wrap_socket(sock, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise
    return sock


@functools.cache  # reading this machine's authorities takes some 20 ms
def _authorities(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"COPPER_CA={ca}: {reason}", advice="expected a PEM file") from None


def authorization(target: Target) -> dict[str, str]:
    """The header that says who asks."""
    return {"Authorization": f"Bearer {target.token}"} if target.token else {}


@contextmanager
def opened(
    target: Target,
    method: str,
    path: str,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float,
) -> Iterator[http.client.HTTPResponse]:
    """One request; the body of its answer is still to be read, which may raise as this does.

    Raises the CopperError that the answer describes, or one that says why there was no answer.
    """
    connection = _Connection(target, timeout_s)
    try:
        connection.request(method, path, data, {**(headers or {}), **authorization(target)})
        answer = connection.getresponse()
        if answer.status == 401:
            raise not_accepted(target, answer.read())
        if answer.status >= 400:
            raise error_of(answer.status, answer.read())
        yield answer
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(error, target, timeout_s) from error
    finally:
        connection.close()


def request(
    target: Target,
    method: str,
    path: str,
    body: object = None,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request with its whole answer. Raises as `opened` does."""
    wanted = {"Accept": "application/json, text/plain", **(headers or {})}
    data = None
    if body is not None:
        data = json.dumps(body, default=_plain).encode()
        wanted["Content-Type"] = "application/json"
    with opened(target, method, path, data, wanted, timeout_s=timeout_s) as answer:
        return Answer(answer.status, answer.headers, answer.read())


def _plain(record: Any) -> Any:
    """A record within a body."""
    if hasattr(record, "model_dump"):
        return record.model_dump(mode="json")
    raise TypeError(f"{type(record).__name__} cannot be sent")


def json_of(text: bytes) -> Any:
    """An answer's JSON. Raises CopperError for anything else."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        raise CopperError(f"Copper's answer is not JSON: {text[:40]!r}") from None


def not_accepted(target: Target, body: bytes) -> CopperError:
    """Why the token of this target is nobody's there."""
    said = error_of(401, body)
    kind = type(said) if isinstance(said, Refused) else Refused
    return kind(
        f"the token is not accepted by {target}: {said.message}",
        advice="COPPER_TOKEN has it; copper token create USER makes another",
    )


def unreachable(error: Exception, target: Target, timeout_s: float) -> CopperError:
    """Why there is no answer from this target, in words."""
    if isinstance(error, TimeoutError):
        return TimedOut(f"no answer from Copper within {timeout_s:.0f} s")
    if target.socket is None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return Refused(
                f"the certificate of {target} is not accepted: {error.verify_message}",
                advice="COPPER_CA=FILE names the authority that made it",
            )
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP"):
            return CopperError(f"{target} does not speak TLS", advice="http:// if it is loopback")
        if isinstance(error, socket.gaierror):
            return CopperError(f"there is no host {target.host}: {error.strerror}")
        if isinstance(error, ConnectionRefusedError):
            return NotRunning(f"nobody listens at {target}", "COPPER_URL says where Copper is")
    elif isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return NotRunning()
    elif isinstance(error, PermissionError):
        return Refused(f"no permission to speak to Copper at {target}", advice="try as root")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Broken(
        f"the connection to Copper was lost: {reason or type(error).__name__}",
        advice="copper doctor says whether it runs" if target.socket else "try again",
    )
