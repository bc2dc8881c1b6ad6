"""The API's hosts. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.api import HostFacts


class HostsApi(Caller):
    """What can be asked about hosts. Every call may raise CopperError."""

    def hosts(self, *, tag: str | None = None) -> list[HostFacts]:
        """The hosts that answer."""
        return list(self.iter_hosts(tag=tag))

    def iter_hosts(self, *, tag: str | None = None) -> Iterator[HostFacts]:
        """The same one by one, asked for page by page."""
        return self._pages("HostFacts", "/v1/hosts", {"tag": tag})

    def host(self, name: str) -> HostFacts:
        """One host."""
        answer: HostFacts = self._ask("HostFacts", "GET", f"/v1/hosts/{check.a_part(name)}")
        return answer
