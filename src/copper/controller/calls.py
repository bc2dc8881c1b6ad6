"""What programs in guests ask for: one method per verb of docs/reference/protocol.md."""

from __future__ import annotations

from typing import Any

from copper.controller.clusters import Clusters
from copper.controller.state import LIVE, State
from copper.model.api import GuestCall
from copper.model.errors import BadInput, NotFound
from copper.model.names import check_count


class Calls:
    """Answers guests. Which VM speaks is what its host says, never what it says itself."""

    def __init__(self, state: State, clusters: Clusters) -> None:
        self._state = state
        self._clusters = clusters
        self._verbs = {"clone": self._clone, "list": self._list}

    async def answer(self, call: GuestCall) -> dict[str, Any]:
        """The result of a call. Raises BadInput for a verb that is not known, and what the verb raises."""
        verb = self._verbs.get(call.verb)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            raise BadInput(f"unknown verb {call.verb!r:.40}", advice=f"known are: {known}")
        return await verb(call)

    async def _clone(self, call: GuestCall) -> dict[str, Any]:
        if "ticket" in call.args:
            raise NotFound(f"clone: there is no ticket {call.args['ticket']!r:.60}")
        count = check_count(call.args.get("count"))
        caller = await self._state.vm(call.vm)
        clones = await self._clusters.clone(caller, count, call.call)
        return {"vmid": 0, "vmids": [vm.vmid for vm in clones]}

    async def _list(self, call: GuestCall) -> dict[str, Any]:
        caller = await self._state.vm(call.vm)
        vms = [
            {
                "vmid": vm.vmid,
                "address": vm.ip,
                "generation": vm.generation,
                "parent": vm.parent,
                "state": vm.state,
                "host": vm.host,
            }
            for vm in await self._state.vms(caller.cluster)
            if vm.state in LIVE
        ]
        return {"vms": vms}
