"""The API's copper. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.api import Health


class CopperApi(Caller):
    """What can be asked about copper. Every call may raise CopperError."""

    def health(self) -> Health:
        """That a Copper serves here, and which; asked without a token."""
        answer: Health = self._ask("Health", "GET", "/v1/health")
        return answer
