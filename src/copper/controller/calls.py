"""What programs in guests ask for: one method per verb of docs/reference/protocol.md."""

from __future__ import annotations

from typing import Any

from copper.controller.clusters import Clusters
from copper.controller.hosts import Host
from copper.controller.state import LIVE, State
from copper.model.api import GuestCall, Vm
from copper.model.errors import BadInput, NotFound, Refused
from copper.model.names import check_count


class Calls:
    """Answers guests. Which VM speaks is what its host says, never what it says itself."""

    def __init__(self, state: State, clusters: Clusters, host: Host) -> None:
        self._state = state
        self._clusters = clusters
        self._tickets = clusters.tickets
        self._host = host
        self._verbs = {
            "clone": self._clone,
            "kill": self._kill,
            "kill-generation": self._kill_generation,
            "killall": self._killall,
            "list": self._list,
            "list-ticket-domains": self._list_ticket_domains,
            "list-tickets": self._list_tickets,
            "request-ticket": self._request_ticket,
            "stat": self._stat,
        }

    async def answer(self, call: GuestCall) -> dict[str, Any]:
        """The result of a call. Raises BadInput for a verb that is not known, and what the verb raises."""
        verb = self._verbs.get(call.verb)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            raise BadInput(f"unknown verb {call.verb!r:.40}", advice=f"known are: {known}")
        return await verb(call, await self._state.vm(call.vm))

    async def _clone(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        if "ticket" in call.args:
            clones = await self._clusters.clone(caller, 0, call.call, call.args["ticket"])
        else:
            count = check_count(call.args.get("count"))
            clones = await self._clusters.clone(caller, count, call.call)
        return {"vmid": 0, "vmids": [vm.vmid for vm in clones]}

    async def _list(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        vms = [
            {
                "vmid": vm.vmid,
                "address": vm.ip,
                "generation": vm.generation,
                "parent": vm.parent,
                "state": vm.state,
                "host": vm.host,
            }
            for vm in await self._live(caller)
        ]
        return {"vms": vms}

    async def _live(self, caller: Vm) -> list[Vm]:
        return [vm for vm in await self._state.vms(caller.cluster) if vm.state in LIVE]

    async def _request_ticket(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        doc, _ = await self._state.cluster(caller.cluster)
        names = ("maxcpus", "minvms", "mincpuspervm", "timeout_ms")
        ticket = await self._tickets.request(
            caller, doc.shape.cpus, *(call.args.get(name, 0) for name in names)
        )
        return {"ticket": ticket.id}

    async def _list_tickets(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        fields = {"id", "status", "cpus", "vms", "mincpuspervm"}
        held = await self._tickets.of(caller)
        return {"tickets": [ticket.model_dump(include=fields) for ticket in held]}

    async def _list_ticket_domains(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        clones = await self._tickets.domains(caller, call.args.get("ticket"))
        return {"clones": [{"vmid": vm.vmid, "ip": vm.ip, "state": vm.state} for vm in clones]}

    async def _kill(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        wanted = call.args.get("vmids")
        if not isinstance(wanted, list) or not wanted:
            raise BadInput(f"kill: expected one vmid or more, got {wanted!r:.40}")
        return await self._end([await self._clone_of(caller, vmid, "kill") for vmid in wanted])

    async def _clone_of(self, caller: Vm, vmid: object, verb: str) -> Vm:
        """A live clone of the caller's virtual cluster. Raises NotFound, Refused for the master."""
        if isinstance(vmid, bool) or not isinstance(vmid, int):
            raise BadInput(f"{verb}: expected a vmid, got {vmid!r:.40}")
        if vmid == 0:
            raise Refused(f"{verb}: the master is no clone")
        found = next((vm for vm in await self._live(caller) if vm.vmid == vmid), None)
        if found is None:
            raise NotFound(f"{verb}: there is no VM {vmid}")
        return found

    async def _kill_generation(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        one = await self._clone_of(caller, call.args.get("vmid"), "kill-generation")
        return await self._end(
            [vm for vm in await self._live(caller) if vm.generation == one.generation]
        )

    async def _killall(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        vms = await self._state.vms(caller.cluster)
        return await self._end([vm for vm in vms if caller.vmid in vm.lineage])

    async def _end(self, vms: list[Vm]) -> dict[str, Any]:
        await self._clusters.end(vms)
        return {"vmids": sorted(vm.vmid for vm in vms)}

    async def _stat(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        mates = {
            vm.name: vm.vmid
            for vm in await self._live(caller)
            if vm.name == caller.name or vm.generation == caller.generation
        }
        vms = [
            {
                "vmid": mates[status.name],
                "nominal": status.shape.memory_bytes,
                "shared": status.shared_bytes,
                "own": status.own_bytes,
            }
            for status in await self._host.vms()
            if status.name in mates
        ]
        return {"vms": sorted(vms, key=lambda row: row["vmid"])}
