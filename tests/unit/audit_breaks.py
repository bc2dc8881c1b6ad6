"""Every one thing that can be wrong in a world of the audit, each with what the audit is to say of it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import assume
from hypothesis import strategies as st

from copper.controller.rows import HELD
from copper.model.api import VmState
from copper.model.audit import Found, Thing
from tests.unit.accounts import vm
from tests.unit.audit_worlds import OF_A_VM, World, new_ticket

ALIVE: tuple[VmState, ...] = ("starting", "running", "paused")
Named = tuple[str, str, str, bool]  # thing, name, host, whether it is mended
Break = Callable[[World, st.DataObject], Named]


def pick(data: st.DataObject, names: list[str]) -> str:
    assume(names)
    return data.draw(st.sampled_from(sorted(names)))


def alone(world: World, name: str) -> None:
    """Only worlds in which this VM's ticket has other live VMs, so that one thing is broken and not two."""
    mine = world.vms[name]
    others = [one for one in world.vms.values() if one.ticket == mine.ticket and one is not mine]
    assume(any(one.state != "dead" for one in others))


def vm_vanished(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = world.vms[name].host
    del world.there[host][name]
    world.forget_things(host, name)
    return "vm", name, host, True


def vm_vanished_but_its_process(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    del world.there[world.vms[name].host][name]
    return "vm", name, world.vms[name].host, False


def start_never_ended(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("starting"))
    host = world.vms[name].host
    del world.there[host][name]
    world.forget_things(host, name)
    return "vm", name, host, False


def row_vanished(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of(*ALIVE))
    alone(world, name)
    return "vm", name, world.vms.pop(name).host, True


def vm_of_the_future(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    one = vm(f"{of}-{world.clusters[of].next_vmid}")
    world.there["a"][one.name] = "running"
    world.add_things(one)
    return "vm", one.name, "a", False


def vm_of_an_unknown_cluster(world: World, data: st.DataObject) -> Named:
    one = vm("gone-7")
    world.there["a"][one.name] = "running"
    world.add_things(one)
    return "vm", one.name, "a", True


def vm_twice(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = pick(data, [host for host in world.there if host != world.vms[name].host])
    world.there[host][name] = "running"
    world.add_things(world.vms[name].model_copy(update={"host": host}))
    return "vm", name, host, False


def vm_elsewhere(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = pick(data, [host for host in world.there if host != world.vms[name].host])
    old = world.vms[name].host
    world.found[host] += world.forget_things(old, name)
    world.there[host][name] = world.there[old].pop(name)
    return "vm", name, host, False


def vm_not_paused(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("paused"))
    world.there[world.vms[name].host][name] = "running"
    return "vm", name, world.vms[name].host, False


def dead_vm_runs(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("dead"))
    world.there[world.vms[name].host][name] = "running"
    world.add_things(world.vms[name])
    return "vm", name, world.vms[name].host, False


def suspended_vm_runs(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("suspended"))
    world.there[world.vms[name].host][name] = "running"
    world.add_things(world.vms[name], ("process", "cgroup"))
    return "vm", name, world.vms[name].host, False


def never_ended(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running"))
    world.vms[name] = world.vms[name].model_copy(update={"state": "ending"})
    return "vm", name, world.vms[name].host, False


def host_is_silent(world: World, data: st.DataObject) -> Named:
    host = pick(data, [host for host in world.there if world.there[host]])
    assume(len(world.there) > 1)  # images are still somewhere
    del world.there[host]
    return "vm", host, host, False


def left(thing: Thing) -> Break:
    def leave(world: World, data: st.DataObject) -> Named:
        dead = world.of("dead")
        name = data.draw(st.sampled_from(["", "gone", "gone-1", *dead]))
        host = world.vms[name].host if name in dead else pick(data, list(world.there))
        world.found[host].append(Found(thing=thing, name="left", vm=name))
        return thing, "left", host, thing != "process" or name not in dead

    return leave


def left_by_the_future(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    name = f"{of}-{world.clusters[of].next_vmid}"
    assume(name not in world.clusters)
    world.found["a"].append(Found(thing="overlay", name="left", vm=name))
    return "overlay", "left", "a", False


def namespace_of_a_cluster_without_vms(world: World, data: st.DataObject) -> Named:
    host = pick(data, list(world.there))
    busy = {one.cluster for one in world.vms.values() if one.host == host and one.state != "dead"}
    of = pick(data, [name for name in world.clusters if name not in busy])
    world.found[host].append(Found(thing="namespace", name="space", vm=of))
    return "namespace", "space", host, True


def nobody_answers_names(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    of, host = world.vms[name].cluster, world.vms[name].host
    world.found[host] = [
        one.model_copy(update={"name": of, "detail": "nobody is there"})
        if (one.thing, one.vm) == ("resolver", of)
        else one
        for one in world.found[host]
    ]
    return "resolver", of, host, True


def tap_of_a_suspended_vm(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("suspended"))
    world.found[world.vms[name].host].append(Found(thing="tap", name="left", vm=name))
    return "tap", "left", world.vms[name].host, False


def off_the_wire(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = world.vms[name].host
    one = next(one for one in world.found[host] if (one.thing, one.vm) == ("tap", name))
    world.found[host].remove(one)
    world.found[host].append(one.model_copy(update={"detail": "its tap is down"}))
    return "tap", one.name, host, True


def overlay_where_the_vm_was(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running"))
    host = pick(data, [host for host in world.there if host != world.vms[name].host])
    world.found[host].append(Found(thing="overlay", name="left", vm=name))
    return "overlay", "left", host, True


def lacks(thing: Thing) -> Break:
    def lose(world: World, data: st.DataObject) -> Named:
        name = pick(data, world.of("running", "paused"))
        host = world.vms[name].host
        world.found[host] = [
            one for one in world.found[host] if (one.thing, one.vm) != (thing, name)
        ]
        return thing, name, host, False

    return lose


def two_processes(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    world.found[world.vms[name].host].append(Found(thing="process", name="2nd", vm=name))
    return "process", name, world.vms[name].host, False


def not_stored(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("suspended"))
    of, host = world.vms[name].cluster, world.vms[name].host
    world.found[host] = [
        one for one in world.found[host] if (one.thing, one.vm) != ("suspended", of)
    ]
    return "suspended", of, host, False


def stored_for_nobody(world: World, data: st.DataObject) -> Named:
    host = pick(data, list(world.there))
    world.found[host].append(Found(thing="suspended", name="old", vm="gone"))
    return "suspended", "old", host, True


def stored_and_running(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running"))
    of, host = world.vms[name].cluster, world.vms[name].host
    world.found[host].append(Found(thing="suspended", name="old", vm=of))
    return "suspended", "old", host, False


def places_do_not_add_up(world: World, data: st.DataObject) -> Named:
    name = pick(data, list(world.tickets))
    one = world.tickets[name]
    world.tickets[name] = one.model_copy(update={"places": {"a": one.vms + 1}})
    return "ticket", name, "", False


def used_for_nobody(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    world.tickets["t"] = new_ticket("t", of, "used", 3)
    return "ticket", "t", "", False


def ticket_vanished(world: World, data: st.DataObject) -> Named:
    name = pick(data, [t for t, one in world.tickets.items() if one.status == "used"])
    del world.tickets[name]
    return "ticket", name, "", False


def ticket_of_no_cluster(world: World, data: st.DataObject) -> Named:
    world.tickets["t"] = new_ticket("t", "gone", "granted", 3)
    return "ticket", "t", "", False


def granted_but_used(world: World, data: st.DataObject) -> Named:
    name = pick(data, [t for t, one in world.tickets.items() if one.status == "used"])
    world.tickets[name] = world.tickets[name].model_copy(update={"status": "granted"})
    return "ticket", name, "", False


def more_processors_than_there_are(world: World, data: st.DataObject) -> Named:
    held = sum(one.host == "a" and one.state in HELD for one in world.vms.values())
    promised = [t for t in world.tickets.values() if t.status == "granted"]
    held += sum(one.cpus for one in promised)
    of = pick(data, list(world.clusters))
    room = 4 * world.cpus
    world.tickets["t"] = new_ticket("t", of, "granted", (room - held) // 2 + 1)
    return "ticket", "processors", "a", False


def more_memory_than_there_is(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    one = new_ticket("t", of, "granted", 1)
    world.tickets["t"] = one.model_copy(update={"vm_bytes": 1 << 40})
    return "ticket", "memory", "a", False


def image_vanished(world: World, data: st.DataObject) -> Named:
    assume(world.clusters)
    for host, found in world.found.items():
        world.found[host] = [one for one in found if one.thing != "image"]
    return "image", "micro", "", False


BREAKS: list[Break] = [
    vm_vanished, vm_vanished_but_its_process, start_never_ended, row_vanished, vm_of_the_future,
    vm_of_an_unknown_cluster, vm_twice, vm_elsewhere, vm_not_paused, dead_vm_runs,
    suspended_vm_runs, never_ended, host_is_silent, left_by_the_future,
    nobody_answers_names, namespace_of_a_cluster_without_vms, tap_of_a_suspended_vm, overlay_where_the_vm_was,
    off_the_wire, two_processes, not_stored, stored_for_nobody, stored_and_running, places_do_not_add_up,
    used_for_nobody, ticket_vanished, ticket_of_no_cluster, granted_but_used,
    more_processors_than_there_are, more_memory_than_there_is, image_vanished,
    lacks("process"), lacks("record"),
    *(left(thing) for thing in OF_A_VM),
]  # fmt: skip
