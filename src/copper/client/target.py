"""Where a Copper is: a Unix socket on this machine, or a URL and the token that it wants."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from copper.model.errors import BadInput

if TYPE_CHECKING:
    from copper.model.settings import Settings

PORTS = {"http": 80, "https": 443}
_EXAMPLE = "expected https://HOST:PORT"


@dataclass(frozen=True)
class Target:
    """One Copper. With `socket`, whoever may open that file is root; else `token` says who asks."""

    socket: Path | None = None
    url: str = ""
    host: str = "localhost"
    port: int = 80
    tls: bool = False
    token: str = field(default="", repr=False)
    ca: str = ""  # a PEM file of the only authorities to trust; empty: those of this machine

    def __str__(self) -> str:
        return self.url or str(self.socket)


def local(settings: Settings) -> Target:
    """The Copper of this machine."""
    return Target(socket=settings.api_socket)


def from_environment(environment: Mapping[str, str] = os.environ) -> Target:
    """The Copper that COPPER_URL names, or the one of this machine. Raises BadInput."""
    url = environment.get("COPPER_URL", "")
    if not url:
        from copper.model.settings import from_environment as settings

        return local(settings(environment))
    token, ca = environment.get("COPPER_TOKEN", ""), environment.get("COPPER_CA", "")
    return remote(url, token, ca)


def remote(url: str, token: str, ca: str = "") -> Target:
    """The Copper at `http(s)://HOST[:PORT]`. Raises BadInput that names the variable."""
    from urllib.parse import urlsplit

    shown = url if len(url) <= 80 else url[:77] + "..."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadInput(f"COPPER_URL={shown!r}: {error}", advice=_EXAMPLE) from None
    readable = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in PORTS or not host or not readable:
        raise BadInput(f"COPPER_URL={shown!r}", advice=_EXAMPLE)
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadInput(f"COPPER_URL={shown!r} has more than a host and a port", advice=_EXAMPLE)
    tls = parts.scheme == "https"
    if not tls and not _loopback(host):
        raise BadInput(f"COPPER_URL={shown!r} would send the token unencrypted", advice=_EXAMPLE)
    if not token:
        raise BadInput(
            "COPPER_URL needs COPPER_TOKEN",
            advice="an administrator makes one: copper token create USER",
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise BadInput("COPPER_TOKEN is not a token", advice="expected one word, as it was printed")
    if ca and not Path(ca).is_file():
        raise BadInput(f"COPPER_CA={ca[:80]!r} is not a file", advice="expected a PEM file")
    return Target(
        url=f"{parts.scheme}://{parts.netloc}",
        host=host,
        port=port or PORTS[parts.scheme],
        tls=tls,
        token=token,
        ca=ca,
    )


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or (
        host.startswith("127.") and host.replace(".", "").isdecimal()
    )
