"""What an audit asks of public addresses: each lease is a VM's that has the address, each address is leased, once."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from copper.controller.audit_view import Action, Finding, View, finding
from copper.controller.rows import HELD, lease_key, vm_key
from copper.model.api import Vm
from copper.model.audit import Inventory

HAVE = (*HELD, "suspended")  # VMs that have addresses until they have ended


def of_leases(view: View) -> Iterator[Finding]:
    """What was given and what VMs have, where that is not the same."""
    has: dict[str, list[Vm]] = collections.defaultdict(list)
    for vm in view.vms.values():
        if vm.state in HAVE:
            for address in vm.public:
                has[address].append(vm)
    for address, lease in view.leases.items():
        if any(vm.name == lease.vm for vm in has.get(address, ())):
            continue
        there = view.vms.get(lease.vm)
        if there is None:
            says = f"it is given to VM {lease.vm}, which is not there"
        elif there.state not in HAVE:
            says = f"it is given to VM {lease.vm}, which is {there.state}"
        else:
            says = f"it is given to VM {lease.vm}, which has it not"
        # what another VM has without a lease of its own is not free
        action: Action = "" if has.get(address) else "release"
        yield finding(
            "lease", address, says, action=action, about=lease_key(address), cluster=lease.cluster
        )
    for address, vms in has.items():
        for vm in vms:
            lease_of = view.leases.get(address)
            if lease_of is not None and lease_of.vm == vm.name:
                continue
            network = view.network_of(address)
            says = f"VM {vm.name} has it, and it is not given"
            if lease_of is not None or len(vms) > 1:
                others = {one.name for one in vms} | ({lease_of.vm} if lease_of else set())
                says = f"VM {vm.name} has it, and {', '.join(sorted(others - {vm.name}))} as well"
            elif not network:
                says = f"VM {vm.name} has it, and it is of no network"
            alone = lease_of is None and len(vms) == 1 and bool(network)
            yield finding(
                "lease",
                address,
                says,
                action="lease" if alone else "",
                about=vm_key(vm.name),
                cluster=vm.cluster,
            )


def of_exposures(view: View, inventories: Sequence[Inventory]) -> Iterator[Finding]:
    """What hosts have in force for the VMs that run, and what they should have."""
    for inventory in inventories:
        there = {one.vm: one.detail for one in inventory.found if one.thing == "exposure"}
        for name in inventory.vms:
            vm = view.vms.get(name)
            if vm is None or vm.host != inventory.host or vm.state not in ("running", "paused"):
                continue
            has, should = there.get(name, ""), view.exposures.get(name, "")
            if has != should:
                says = f"VM {name}: {has or 'nothing'} is in force, and should be {should or 'nothing'}"
                yield finding(
                    "exposure",
                    name,
                    says,
                    host=inventory.host,
                    action="expose",
                    about=vm_key(name),
                    cluster=vm.cluster,
                )
