"""The API's operations. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.operations import Operation, OperationKind, OperationState


class OperationsApi(Caller):
    """What can be asked about operations. Every call may raise CopperError."""

    def operations(
        self,
        cluster: str | None = None,
        *,
        state: OperationState | None = None,
        kind: OperationKind | None = None,
    ) -> list[Operation]:
        """Operations, the oldest first: those under way, and those that ended lately."""
        return list(self.iter_operations(cluster=cluster, state=state, kind=kind))

    def iter_operations(
        self,
        cluster: str | None = None,
        *,
        state: OperationState | None = None,
        kind: OperationKind | None = None,
    ) -> Iterator[Operation]:
        """The same one by one, asked for page by page."""
        return self._pages(
            "Operation",
            "/v1/operations",
            {
                "cluster": check.a_cluster(cluster) if cluster is not None else None,
                "state": state,
                "kind": kind,
            },
        )

    def operation(self, id: str) -> Operation:
        """One operation, and how far it is."""
        answer: Operation = self._ask("Operation", "GET", f"/v1/operations/{check.a_part(id)}")
        return answer

    def wait_operation(self, id: str, *, timeout_s: float = 60) -> Operation:
        """The operation once it has ended, or as it is after `timeout_s`."""
        answer: Operation = self._ask(
            "Operation",
            "GET",
            f"/v1/operations/{check.a_part(id)}/wait",
            query={"timeout_s": timeout_s},
        )
        return answer

    def cancel_operation(self, id: str) -> Operation:
        """Ends an operation; answers once what it had begun is undone."""
        answer: Operation = self._ask(
            "Operation", "POST", f"/v1/operations/{check.a_part(id)}/cancel", keyed=True
        )
        return answer
