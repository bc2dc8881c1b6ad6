"""The API's operations. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.operations import Operation, OperationState


class OperationsApi(Caller):
    """What can be asked about operations. Every call may raise CopperError."""

    def operations(
        self, cluster: str | None = None, *, state: OperationState | None = None
    ) -> list[Operation]:
        """The operations."""
        return list(self.iter_operations(cluster=cluster, state=state))

    def iter_operations(
        self, cluster: str | None = None, *, state: OperationState | None = None
    ) -> Iterator[Operation]:
        """The same one by one, asked for page by page."""
        return self._pages(
            "Operation",
            "/v1/operations",
            {"cluster": check.a_cluster(cluster) if cluster is not None else None, "state": state},
        )

    def operation(self, id: str, *, wait_s: float = 0) -> Operation:
        """One operation."""
        answer: Operation = self._ask(
            "Operation", "GET", f"/v1/operations/{check.a_part(id)}", query={"wait_s": wait_s}
        )
        return answer

    def cancel_operation(self, id: str) -> Operation:
        """Cancels."""
        answer: Operation = self._ask(
            "Operation", "POST", f"/v1/operations/{check.a_part(id)}/cancel", keyed=True
        )
        return answer
