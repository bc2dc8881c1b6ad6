"""What an audit asks of hosts: each VM once and where it should be, each thing somebody's, what is suspended stored."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from copper.controller.audit_view import Action, Finding, View, finding
from copper.controller.rows import HELD, cluster_key, vm_key
from copper.model.api import Vm, VmState
from copper.model.audit import Found, Inventory, Thing

# what a suspended VM leaves on its host
STORED: tuple[Thing, ...] = ("overlay", "record", "memory-file")
# they are no VM's
OTHERS: tuple[Thing, ...] = ("image", "vm", "ticket", "suspended", "namespace", "resolver")


def of_vms(view: View, inventories: Sequence[Inventory]) -> Iterator[Finding]:
    """Each VM that should be there is there once, where it should be, and no other."""
    by_host = {one.host: one for one in inventories}
    where: dict[str, list[str]] = collections.defaultdict(list)
    for one in inventories:
        for name in one.vms:
            where[name].append(one.host)
    for name, hosts in where.items():
        for host in hosts:
            says, action = _of_one(view, name, host, hosts, by_host[host].vms[name])
            if says:
                yield _vm(view, name, host, says, action)
    silent: dict[str, int] = collections.Counter()
    for vm in view.vms.values():
        if vm.state in HELD and vm.name not in where:
            if vm.host in by_host:
                says, action = _missing(vm, by_host[vm.host])
                yield _vm(view, vm.name, vm.host, says, action)
            else:
                silent[vm.host] += 1
    for host, count in silent.items():
        yield finding(
            "vm", host, f"it does not answer: {count} VMs were not looked at there", host=host
        )


def _vm(view: View, name: str, host: str, says: str, action: Action) -> Finding:
    return finding(
        "vm",
        name,
        says,
        host=host,
        action=action,
        about=vm_key(name),
        cluster=view.cluster_of(name),
    )


def _of_one(
    view: View, name: str, host: str, hosts: Sequence[str], state: VmState
) -> tuple[str, Action]:
    """What is wrong with a VM that is on a host; nothing: empty."""
    vm = view.vms.get(name)
    if vm is None:
        if view.was_given_out(name):
            return "it is there, and is nobody's", "end"
        return "it is there, and its number was never given out", ""
    if vm.host != host and vm.state in (*HELD, "suspended"):
        also = " as well" if vm.host in hosts else ""
        return f"it is there{also}, and should be on {vm.host}", ""
    if vm.state == "ending":
        return "it is there, and should have ended", ""
    if vm.state not in HELD or {vm.state, state} == {"running", "paused"}:
        return f"it is {state}, and should be {vm.state}", ""
    return "", ""


def _missing(vm: Vm, inventory: Inventory) -> tuple[str, Action]:
    if any(one.thing == "process" and one.vm == vm.name for one in inventory.found):
        return "its process is there, and its host agent does not know it", ""
    if vm.state == "ending":
        return "it has ended, and is not forgotten", ""
    return f"it is not there, and should be {vm.state}", "" if vm.state == "starting" else "dead"


def of_things(view: View, inventory: Inventory) -> Iterator[Finding]:
    """Each thing on a host is somebody's, and each VM has what it needs."""
    processes: dict[str, int] = collections.Counter()
    records: set[str] = set()
    for one in inventory.found:
        if one.thing == "process":
            processes[one.vm] += 1
        elif one.thing == "record":
            records.add(one.vm)
    for one in inventory.found:
        if one.thing in OTHERS or one.vm.startswith("("):
            continue
        if one.thing == "tap" and one.detail and _runs(view, inventory, one.vm):
            yield finding(
                *("tap", one.name, f"VM {one.vm} is off its wire: {one.detail}"),
                host=inventory.host,
                action="rewire",
                about=vm_key(one.vm),
                cluster=view.cluster_of(one.vm),
            )
        if one.vm in inventory.vms or _should_be(view, inventory, one):
            continue  # a VM that should not be there is named itself
        says, safe = _unused(view, inventory, one, one.vm in processes)
        detail = f" ({one.detail})" if one.detail else ""
        yield finding(
            one.thing,
            one.name,
            says + detail,
            host=inventory.host,
            action="remove" if safe else "",
            about=vm_key(one.vm),
            cluster=view.cluster_of(one.vm),
        )
    for name, state in inventory.vms.items():
        vm = view.vms.get(name)
        if vm is None or vm.host != inventory.host or "starting" in (state, vm.state):
            continue
        lacks: list[tuple[Thing, str]] = []
        if processes.get(name, 0) != 1:
            lacks.append(("process", f"VM {name} has {processes.get(name, 0)} of them, not one"))
        if name not in records:
            lacks.append(("record", f"VM {name} has none: a new host agent would not find it"))
        for thing, says in lacks:
            yield finding(
                thing, name, says, host=inventory.host, about=vm_key(name), cluster=vm.cluster
            )


def _runs(view: View, inventory: Inventory, name: str) -> bool:
    """Whether a VM is in force here, by both."""
    vm, there = view.vms.get(name), inventory.vms.get(name)
    run = ("running", "paused")
    return vm is not None and vm.host == inventory.host and vm.state in run and there in run


def _should_be(view: View, inventory: Inventory, one: Found) -> bool:
    vm = view.vms.get(one.vm)
    if vm is None or vm.host != inventory.host:
        return False
    return vm.state in HELD or (vm.state == "suspended" and one.thing in STORED)


def _unused(view: View, inventory: Inventory, one: Found, has_process: bool) -> tuple[str, bool]:
    """What is wrong with a thing, and whether it may be removed."""
    vm = view.vms.get(one.vm)
    if not one.vm:
        return "it is nobody's", True
    if vm is not None:
        # what a VM left may go when it has ended or lives elsewhere; a process is a VM itself
        left = vm.state == "dead" or (vm.state in HELD and vm.host != inventory.host)
        is_now = f"on {vm.host}" if vm.host != inventory.host else vm.state
        return f"VM {one.vm}, whose it is, is {is_now}", left and not has_process
    if view.was_given_out(one.vm):
        return f"VM {one.vm}, whose it is, is not there", True
    return f"VM {one.vm}, whose it is, is not there and its number was never given out", False


def of_clusters(view: View, inventory: Inventory) -> Iterator[Finding]:
    """What is suspended is stored on its host, names are answered where VMs are, and nothing is there without one."""
    host = inventory.host
    running = {view.cluster_of(name) for name in inventory.vms}
    suspended = view.suspended_on.get(host, set())
    here = running | view.clusters_on.get(host, set())
    stored: set[str] = set()
    for one in inventory.found:
        # a host that names the VMs of what it stores is understood as well
        cluster = one.vm if one.vm in view.clusters else view.cluster_of(one.vm) or one.vm
        if one.thing == "suspended":
            stored.add(cluster)
            # as long as its VMs run here, they may stand on these files
            used, safe, says = cluster in suspended, cluster not in running, "is not suspended here"
        elif one.thing == "namespace":
            used, safe, says = cluster in here, True, "has no VM here"
        elif one.thing == "resolver" and one.detail and cluster in here:
            yield finding(
                "resolver",
                one.name,
                one.detail,
                host=host,
                action="answer",
                about=cluster_key(cluster),
                cluster=cluster,
            )
            continue
        else:
            continue
        if not used:
            yield finding(
                one.thing,
                one.name,
                f"{one.vm}, whose it is, {says}" if one.vm else "it is nobody's",
                host=host,
                action="remove" if safe else "",
                about=cluster_key(cluster),
                cluster=cluster,
            )
    for name in sorted(suspended - stored):
        says = "it is suspended, and not stored there"
        yield finding("suspended", name, says, host=host, about=cluster_key(name), cluster=name)
