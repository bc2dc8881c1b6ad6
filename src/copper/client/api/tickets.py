"""The API's tickets. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.tickets import Ticket


class TicketsApi(Caller):
    """What can be asked about tickets. Every call may raise CopperError."""

    def request_ticket(
        self,
        name: str,
        maxcpus: int,
        *,
        minvms: int = 1,
        mincpuspervm: int = 1,
        timeout_ms: int = 0,
    ) -> Ticket:
        """Reserves room for clones of a VM; waits up to `timeout_ms` for it."""
        answer: Ticket = self._ask(
            "Ticket",
            "POST",
            f"/v1/vms/{check.a_vm(name)}/tickets",
            body={
                "maxcpus": maxcpus,
                "minvms": minvms,
                "mincpuspervm": mincpuspervm,
                "timeout_ms": timeout_ms,
            },
            keyed=True,
        )
        return answer

    def tickets(self, cluster: str | None = None) -> list[Ticket]:
        """The tickets."""
        return list(self.iter_tickets(cluster=cluster))

    def iter_tickets(self, cluster: str | None = None) -> Iterator[Ticket]:
        """The same one by one, asked for page by page."""
        return self._pages(
            "Ticket",
            "/v1/tickets",
            {"cluster": check.a_cluster(cluster) if cluster is not None else None},
        )

    def ticket(self, id: str) -> Ticket:
        """One ticket."""
        answer: Ticket = self._ask("Ticket", "GET", f"/v1/tickets/{check.a_part(id)}")
        return answer

    def release_ticket(self, id: str) -> None:
        """Gives a ticket back that was not used."""
        self._ask("None", "DELETE", f"/v1/tickets/{check.a_part(id)}", keyed=True)
