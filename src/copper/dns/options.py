"""Where names are answered and who is asked for others, as COPPER_DNS, COPPER_DOMAIN and COPPER_DNS_FORWARD say it."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
import socket
from collections.abc import Iterator

from copper.model.errors import BadInput, Conflict
from copper.model.settings import Settings

OFF = "off"
TRIES = 20  # of taking a free port that is free for TCP too
_DOMAIN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
LONGEST_DOMAIN = 200  # with a VM's name before it, a name has at most 253 characters


@dataclasses.dataclass(frozen=True)
class Address:
    """An IP address of this machine or another, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


@dataclasses.dataclass(frozen=True)
class Options:
    """`at` None: names are not answered. `forward` None: other names are refused."""

    at: Address | None
    domain: str
    forward: Address | None


def options_of(settings: Settings) -> Options:
    """Raises BadInput that names the variable and what it takes."""
    at = None if settings.dns == OFF else parse_address("COPPER_DNS", settings.dns)
    if at is not None and ipaddress.ip_address(at.host).is_unspecified:
        raise BadInput(
            f"COPPER_DNS={settings.dns!r:.80}",
            advice="expected one address of this machine: answers come from where the question went",
        )
    forward = None
    if settings.dns_forward:
        forward = parse_address("COPPER_DNS_FORWARD", settings.dns_forward)
        if forward == at:
            raise BadInput("COPPER_DNS_FORWARD is COPPER_DNS", advice="expected another server")
    domain = settings.domain.lower().removesuffix(".")
    if len(domain) > LONGEST_DOMAIN or not _DOMAIN.fullmatch(domain):
        raise BadInput(
            f"COPPER_DOMAIN={settings.domain!r:.80}",
            advice="expected a name such as clusters or vms.example.org",
        )
    return Options(at, domain, forward)


def parse_address(variable: str, text: str) -> Address:
    """HOST:PORT of an IP address, IPv6 in brackets. Raises BadInput."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host[:1] + host[-1:] == "[]" else host
    try:
        known = ipaddress.ip_address(bare)
        if (known.version == 6) != (bare != host) or getattr(known, "scope_id", None):
            raise ValueError
        if not (port.isascii() and port.isdecimal() and int(port) < 65536):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"{variable}={text!r:.80}", advice="expected ADDRESS:PORT, such as 127.0.0.1:10053"
        ) from None
    return Address(str(known), int(port))


@dataclasses.dataclass(frozen=True)
class Sockets:
    """The two that answer at one address."""

    udp: socket.socket
    tcp: socket.socket

    @property
    def at(self) -> Address:
        """Where it is, also when any port was asked for."""
        host, port = self.udp.getsockname()[:2]
        return Address(host, port)


@contextlib.contextmanager
def bound(at: Address) -> Iterator[Sockets]:
    """Open sockets at an address; with port 0 at one that is free. Raises Conflict when it is taken."""
    with contextlib.ExitStack() as closing:
        try:
            for _ in range(1 if at.port else TRIES):
                with contextlib.ExitStack() as attempt:
                    udp = attempt.enter_context(socket.socket(at.family, socket.SOCK_DGRAM))
                    tcp = attempt.enter_context(socket.socket(at.family, socket.SOCK_STREAM))
                    # connections of a former server that are not forgotten yet do not count
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    udp.bind((at.host, at.port))
                    try:
                        tcp.bind((at.host, udp.getsockname()[1]))
                        tcp.listen(128)
                    except OSError:
                        if at.port:
                            raise
                        continue
                    closing.enter_context(attempt.pop_all())
                    break
            else:
                raise Conflict(f"cannot answer names at {at}: no port is free")
        except OSError as error:
            raise Conflict(f"cannot answer names at {at}: {error.strerror}") from None
        for sock in (udp, tcp):
            sock.setblocking(False)
        yield Sockets(udp, tcp)
