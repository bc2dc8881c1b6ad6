"""The API's audit. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.audit import Difference


class AuditApi(Caller):
    """What can be asked about audit. Every call may raise CopperError."""

    def audit(self) -> list[Difference]:
        """Compares what is written down with what the hosts have."""
        answer: list[Difference] = self._ask("list[Difference]", "GET", "/v1/audit")
        return answer

    def repair(self) -> list[Difference]:
        """Compares, and mends what is safe to mend."""
        answer: list[Difference] = self._ask("list[Difference]", "POST", "/v1/audit", keyed=True)
        return answer
