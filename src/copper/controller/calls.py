"""What programs in guests ask for: one method per verb of docs/reference/protocol.md."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from copper.controller.book import Book
from copper.controller.hosts import Hosts
from copper.controller.rows import LIVE
from copper.model.api import GuestCall, Vm, VmStatus
from copper.model.errors import BadInput, NotFound, Refused
from copper.model.names import check_count
from copper.model.tickets import TicketRequest

if TYPE_CHECKING:
    from copper.controller.core import Core


class Calls:
    """Answers guests. Which VM speaks is what its host says, never what it says itself."""

    def __init__(self, book: Book, hosts: Hosts, core: Core) -> None:
        self._book = book
        self._hosts = hosts
        self._core = core
        self._tickets = core.tickets
        self._verbs = {
            "clone": self._clone,
            "join": self._join,
            "join-collected": self._join_collected,
            "join-wait": self._join_wait,
            "kill": self._kill,
            "kill-generation": self._kill_generation,
            "killall": self._killall,
            "known-hosts": self._known_hosts,
            "list": self._list,
            "list-ticket-domains": self._list_ticket_domains,
            "list-tickets": self._list_tickets,
            "request-ticket": self._request_ticket,
            "stat": self._stat,
            "sync": self._sync,
        }

    async def answer(self, call: GuestCall) -> dict[str, Any]:
        """The result of a call. Raises BadInput for a verb that is not known, and what the verb raises."""
        verb = self._verbs.get(call.verb)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            raise BadInput(f"unknown verb {call.verb!r:.40}", advice=f"known are: {known}")
        return await verb(call, self._book.vm(call.vm))

    async def _clone(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        if "ticket" in call.args:
            clones = await self._core.clone(
                caller.name, ticket=str(call.args["ticket"]), call=call.call
            )
        else:
            count = check_count(call.args.get("count"))
            clones = await self._core.clone(caller.name, count, call=call.call)
        return {"vmid": 0, "vmids": [vm.vmid for vm in clones], "ticket": clones[0].ticket}

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
            for vm in self._live(caller)
        ]
        return {"vms": vms}

    async def _known_hosts(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        after = call.args.get("after", -1)
        if isinstance(after, bool) or not isinstance(after, int):
            raise BadInput(f"known-hosts: expected a vmid to go on after, got {after!r:.40}")
        lines, following = self._core.logins.known_hosts(caller.cluster, after)
        return {"lines": lines} | ({} if following is None else {"next": following})

    def _live(self, caller: Vm) -> list[Vm]:
        return [vm for vm in self._book.vms(caller.cluster) if vm.state in LIVE]

    async def _request_ticket(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        numbers: dict[str, int] = {}
        for name in ("maxcpus", "minvms", "mincpuspervm", "timeout_ms"):
            number = call.args.get(name, 0)
            if isinstance(number, bool) or not isinstance(number, int):
                shown = f"{name.upper()}: expected a number, got {number!r:.40}"
                raise BadInput(f"request-ticket: {shown}")
            numbers[name] = number
        ticket = await self._core.request_ticket(caller.name, TicketRequest(**numbers))
        return {"ticket": ticket.id}

    async def _list_tickets(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        fields = {"id", "status", "cpus", "vms", "mincpuspervm"}
        held = self._tickets.of(caller)
        return {"tickets": [ticket.model_dump(include=fields) for ticket in held]}

    async def _list_ticket_domains(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        clones = self._tickets.domains(caller, call.args.get("ticket"))
        return {"clones": [{"vmid": vm.vmid, "ip": vm.ip, "state": vm.state} for vm in clones]}

    async def _kill(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        wanted = call.args.get("vmids")
        if not isinstance(wanted, list) or not wanted:
            raise BadInput(f"kill: expected one vmid or more, got {wanted!r:.40}")
        return await self._end([self._clone_of(caller, vmid, "kill") for vmid in wanted])

    def _clone_of(self, caller: Vm, vmid: object, verb: str) -> Vm:
        """A live clone of the caller's virtual cluster. Raises NotFound, Refused for the master."""
        if isinstance(vmid, bool) or not isinstance(vmid, int):
            raise BadInput(f"{verb}: expected a vmid, got {vmid!r:.40}")
        if vmid == 0:
            raise Refused(f"{verb}: the master is no clone")
        found = next((vm for vm in self._live(caller) if vm.vmid == vmid), None)
        if found is None:
            raise NotFound(f"{verb}: there is no VM {vmid}")
        return found

    async def _kill_generation(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        one = self._clone_of(caller, call.args.get("vmid"), "kill-generation")
        return await self._end([vm for vm in self._live(caller) if vm.generation == one.generation])

    async def _killall(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        vms = self._book.vms(caller.cluster)
        return await self._end([vm for vm in vms if caller.vmid in vm.lineage])

    async def _end(self, vms: list[Vm]) -> dict[str, Any]:
        await self._core.end([vm.name for vm in vms])
        return {"vmids": sorted(vm.vmid for vm in vms)}

    async def _sync(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        await self._core.barriers.sync(caller, call.call, call.args)
        return {}

    async def _join(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        await self._core.joins.join(caller, call.args)
        return {}

    async def _join_wait(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        return await self._core.joins.wait(caller, call.args)

    async def _join_collected(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        await self._core.joins.collected(caller, call.args)
        return {}

    async def _stat(self, call: GuestCall, caller: Vm) -> dict[str, Any]:
        mates = {
            vm.name: vm
            for vm in self._live(caller)
            if vm.name == caller.name or vm.generation == caller.generation
        }
        hosts = sorted({vm.host for vm in mates.values()})
        found: list[list[VmStatus]] = await asyncio.gather(
            *(self._hosts.get(host).vms() for host in hosts)
        )
        vms = [
            {
                "vmid": mates[status.name].vmid,
                "nominal": status.shape.memory_bytes,
                "shared": status.shared_bytes,
                "own": status.own_bytes,
            }
            for here in found
            for status in here
            if status.name in mates
        ]
        return {"vms": sorted(vms, key=lambda row: row["vmid"])}
