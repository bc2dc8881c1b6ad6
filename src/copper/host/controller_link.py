"""What a host agent tells and asks the controller."""

from __future__ import annotations

import logging
from typing import Any

from copper.model.api import GuestCall, VmEnded
from copper.model.errors import CopperError
from copper.wire.http import Peer

CALL_TIMEOUT_S = 24 * 3600  # a barrier may wait for long; the guest gives its own time-outs
log = logging.getLogger(__name__)


class ControllerLink:
    """The controller, seen from a host."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def call(self, vm: str, call: int, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        """Passes a guest's call on; returns its result. Raises what the controller answered."""
        body = GuestCall(vm=vm, call=call, verb=verb, args=args)
        result = await self._peer.request("POST", "/v1/calls", body, timeout_s=CALL_TIMEOUT_S)
        return dict(result)

    async def ended(self, ended: VmEnded) -> None:
        """Says that a VM ended on its own. The controller compares anyway, so a loss is only late."""
        try:
            await self._peer.request("POST", "/v1/ended", ended)
        except CopperError as error:
            log.warning("the controller was not told that %s ended: %s", ended.vm, error)
