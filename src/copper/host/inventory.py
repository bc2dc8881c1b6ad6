"""All that a host has of this Copper's, read from the system, and the removal of what no VM uses.

What the agent remembers only says what it holds for no VM. A process is this Copper's by its command line and its
sockets: they were bound below the run directory, which the kernel says even when that folder is gone. Nothing else is
ever touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from copper.host.cgroups import Groups
from copper.image.suspended import SuspendedStore
from copper.model.audit import Found
from copper.model.errors import BadInput, NotFound, Refused
from copper.model.names import vm_name
from copper.model.settings import Settings
from copper.net.filter import tap_name, vmid_of
from copper.net.networks import Networks
from copper.vmm.alive import Alive
from copper.vmm.layers import layer_of

UNIT = re.compile(r"[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Held:
    """What an agent uses: each with whose it is, a VM's name or a word in parentheses."""

    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    disks: Mapping[Path, str] = dataclasses.field(default_factory=dict)
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    storing: frozenset[str] = frozenset()  # virtual clusters that are being suspended

    @property
    def vms(self) -> set[str]:
        return {vm for vm in self.units.values() if not vm.startswith("(")}


@dataclasses.dataclass(frozen=True)
class Qemu:
    """A QEMU of this run directory."""

    alive: Alive
    unit: str


@dataclasses.dataclass(frozen=True)
class Place:
    """One Copper's places on a host; `proc` is the kernel's, but for tests."""

    settings: Settings
    groups: Groups
    suspended: SuspendedStore
    networks: Networks | None = None
    proc: Path = Path("/proc")

    def qemus(self) -> list[Qemu]:
        """Every QEMU of this run directory, also when its folder was removed."""
        folder = self.settings.run_dir / "q"
        ours = _sockets_below(folder, self.proc)
        found = []
        for pid in _numbers(self.proc):
            unit = _unit_of(self.proc / str(pid))
            if unit and ((folder / unit).is_dir() or ours & _sockets_of(self.proc / str(pid))):
                with contextlib.suppress(NotFound):
                    found.append(Qemu(Alive.of(pid), unit))
        return found

    def found(self, held: Held) -> list[Found]:
        """Everything, with whose it is as far as it says so itself. Reads files, for milliseconds."""
        units = {**self._recorded(), **held.units}
        qemus = self.qemus()
        return [
            *self._processes(qemus, units),
            *self._folders(qemus, units),
            *self._overlays(qemus, units, held),
            *self._records(),
            *self._layers(qemus, units, held),
            *(Found(thing="cgroup", name=str(path), vm=path.name) for path in self.groups.found()),
            *self._stored(),
            *self._networks(),
        ]

    def _recorded(self) -> dict[str, str]:
        """The unit of each VM, by the records."""
        units = {}
        for path in self.settings.vms_dir.glob("[!.]*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                units[str(json.loads(path.read_bytes())["unit"])] = path.stem
        return units

    def _processes(self, qemus: list[Qemu], units: Mapping[str, str]) -> Iterator[Found]:
        for qemu in qemus:
            vm = units.get(qemu.unit, "")
            if not vm and self._is_built_by_another(qemu.alive.pid):
                vm = "(builder)"
            yield Found(
                thing="process", name=str(qemu.alive.pid), vm=vm, detail=f"QEMU {qemu.unit}"
            )

    def _is_built_by_another(self, pid: int) -> bool:
        """Whether it is the child of a Copper command, such as `copper image build`, that runs."""
        try:
            stat = (self.proc / str(pid) / "stat").read_text()
            parent = int(stat.rpartition(")")[2].split()[1])
            if parent == os.getpid():
                return False
            argv = (self.proc / str(parent) / "cmdline").read_bytes()
        except OSError:
            return False
        return b"copper" in argv and b"python" in argv

    def _folders(self, qemus: list[Qemu], units: Mapping[str, str]) -> Iterator[Found]:
        running = {qemu.unit for qemu in qemus}
        for path in sorted((self.settings.run_dir / "q").glob("*")):
            vm = units.get(path.name) or ("(process)" if path.name in running else "")
            yield Found(thing="socket", name=str(path), vm=vm)

    def _overlays(self, qemus: list[Qemu], units: Mapping[str, str], held: Held) -> Iterator[Found]:
        users = dict(held.disks)
        for manifest in self.suspended.readable():
            for stored in manifest.vms:
                users |= dict.fromkeys(stored.disks, stored.vm.identity.name)
        for qemu in qemus:
            for link in links_of(self.proc / str(qemu.alive.pid)):
                if link.endswith(".qcow2"):
                    users[Path(link)] = units.get(qemu.unit, "") or "(process)"
        for path in sorted(self.settings.disks_dir.glob("*")):
            yield Found(thing="overlay", name=str(path), vm=users.get(path, ""))

    def _records(self) -> Iterator[Found]:
        for path in sorted(self.settings.vms_dir.glob("[!.]*")):
            vm = path.name.split(".")[0]
            if path.suffix == ".json":
                yield Found(thing="record", name=str(path), vm=vm)
            elif not (self.settings.vms_dir / f"{vm}.json").exists():
                yield Found(thing="record", name=str(path), vm=vm, detail="without a record")

    def _layers(self, qemus: list[Qemu], units: Mapping[str, str], held: Held) -> Iterator[Found]:
        users: dict[str, str] = {}
        for pid, vm in [
            (os.getpid(), ""),
            *((qemu.alive.pid, units.get(qemu.unit, "") or "(process)") for qemu in qemus),
        ]:
            for link in links_of(self.proc / str(pid)):
                if layer := layer_of(link):
                    users[layer] = users.get(layer) or vm
        for layer, vm in sorted(users.items()):
            yield Found(thing="memory-file", name=layer, vm=held.layers.get(layer) or vm)

    def _stored(self) -> Iterator[Found]:
        for cluster in self.suspended.clusters():
            yield Found(thing="suspended", name=cluster, vm=cluster)
        for path in self.suspended.halves():
            cluster = path.name[1:].rpartition(".")[0]
            yield Found(thing="suspended", name=path.name, vm=cluster, detail="half of it")

    def _networks(self) -> Iterator[Found]:
        """A tap is there as long as its VM's process; a namespace may be left."""
        if self.networks is None:
            return
        off_wire = self.networks.off_wire()
        for cluster, vmids in self.networks.found().items():
            name = self.networks.namespace_of(cluster)
            yield Found(thing="namespace", name=name, vm=cluster)
            wrong = off_wire.get(cluster, {})
            for vmid in sorted({*vmids, *wrong}):
                tap, vm = f"{name}/{tap_name(vmid)}", vm_name(cluster, vmid)
                yield Found(thing="tap", name=tap, vm=vm, detail=wrong.get(vmid, ""))
        for cluster, why in self.networks.unanswered().items():
            yield Found(thing="resolver", name=cluster, vm=cluster, detail=why)
        way_out, used = self.networks.way_out
        if way_out and not used:
            yield Found(thing="namespace", name=way_out, detail="the way to the world")
        for cluster, lines in self.networks.exposed().items():
            for vmid, detail in lines.items():
                vm = vm_name(cluster, vmid)
                yield Found(thing="exposure", name=vm, vm=vm, detail=detail)

    async def mend(self, thing: str, name: str, held: Held) -> None:
        """Removes a thing that `found` says, if no VM uses it; gone already: nothing to do. A resolver is opened anew.

        A VM's tap is put on its wire again.

        Raises BadInput for what is not Copper's, Refused for what is in use or is not known how to remove.
        """
        if thing == "process":
            await self._end(name, held)
        elif thing == "socket":
            await self._remove_folder(Path(name), held)
        elif thing == "overlay":
            await asyncio.to_thread(self._remove_overlay, Path(name), held)
        elif thing == "record":
            path = _below(self.settings.vms_dir, Path(name))
            _refuse_if(path.name.split(".")[0] in held.vms, f"{path.name} is of a VM that is here")
            path.unlink(missing_ok=True)
        elif thing == "cgroup":
            await self._remove_group(Path(name), held)
        elif thing == "suspended":
            await asyncio.to_thread(self._remove_half, name, held)
        elif thing == "exposure" and self.networks:
            _refuse_if(name in held.vms, f"VM {name} runs")
            await self.networks.settle()
        elif thing == "resolver" and self.networks:
            await self.networks.mend_names(name)
        elif thing in ("namespace", "tap") and self.networks:
            await self._remove_network(self.networks, name)
        else:
            raise Refused(
                f"a {thing} is not removed on its own", advice="it goes with who holds it"
            )

    async def _end(self, name: str, held: Held) -> None:
        for qemu in await asyncio.to_thread(self.qemus):
            if str(qemu.alive.pid) == name:
                _refuse_if(
                    qemu.unit in held.units, f"process {name} is {held.units.get(qemu.unit)}'s"
                )
                _refuse_if(
                    self._is_built_by_another(qemu.alive.pid), f"process {name} makes an image"
                )
                await asyncio.to_thread(qemu.alive.end)
                return
        _refuse_if((self.proc / name).exists(), f"process {name} is not Copper's")

    async def _remove_folder(self, path: Path, held: Held) -> None:
        path = _below(self.settings.run_dir / "q", path)
        if not UNIT.fullmatch(path.name):
            raise BadInput(f"{path} is not Copper's")
        _refuse_if(path.name in held.units, f"{path} is in use")
        running = {qemu.unit for qemu in await asyncio.to_thread(self.qemus)}
        _refuse_if(path.name in running, f"{path} is of a QEMU that runs")
        await asyncio.to_thread(shutil.rmtree, path, True)

    def _remove_overlay(self, path: Path, held: Held) -> None:
        path = _below(self.settings.disks_dir, path)
        _refuse_if(
            self.suspended.has_damaged(), "nobody knows what a damaged suspended cluster uses"
        )
        for one in self._overlays(self.qemus(), self._recorded(), held):
            _refuse_if(one.name == str(path) and one.vm != "", f"{path} is {one.vm}'s")
        path.unlink(missing_ok=True)

    async def _remove_group(self, path: Path, held: Held) -> None:
        if path not in await asyncio.to_thread(self.groups.found):
            _refuse_if(path.exists(), f"{path} is not Copper's")
            return
        _refuse_if(path.name in held.vms, f"{path} is of a VM that is here")
        _refuse_if(not await self.groups.remove_folder(path), f"{path} has processes")

    async def _remove_network(self, networks: Networks, name: str) -> None:
        way_out, used = networks.way_out
        if name == way_out:
            _refuse_if(used, f"{name} is the VMs' way to the world")
            await networks.settle()
            return
        namespace, _, tap = name.partition("/")
        cluster = networks.cluster_of(namespace)
        vmid = vmid_of(tap) if tap else None
        if not cluster or (tap and vmid is None):
            raise BadInput(f"{name} is not Copper's")
        _refuse_if(not await networks.mend(cluster, vmid), f"{name} is of a VM that is here")

    def _remove_half(self, name: str, held: Held) -> None:
        half = self.suspended.folder / name
        if half in self.suspended.halves():
            cluster = name[1:].rpartition(".")[0]
            _refuse_if(cluster in held.storing, f"virtual cluster {cluster} is being suspended")
            shutil.rmtree(half, ignore_errors=True)


def _refuse_if(is_so: bool, why: str) -> None:
    if is_so:
        raise Refused(why)


def _below(folder: Path, path: Path) -> Path:
    """A path directly in a folder of Copper's. Raises BadInput for every other."""
    if path.parent != folder or path.name in ("", ".", ".."):
        raise BadInput(f"{path} is not Copper's")
    return path


def _numbers(proc: Path) -> list[int]:
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]


def _unit_of(process: Path) -> str:
    """The unit that a QEMU's command line names; empty for any other process."""
    try:
        argv = (process / "cmdline").read_bytes().split(b"\0")
        name = argv[argv.index(b"-name") + 1].decode()
    except (OSError, ValueError, IndexError):
        return ""
    unit = name.removeprefix("copper-")
    return unit if name != unit and UNIT.fullmatch(unit) else ""


def links_of(process: Path) -> list[str]:
    """What a process has open."""
    links = []
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(entry.readlink()))
    return links


def _sockets_of(process: Path) -> set[str]:
    return {link[8:-1] for link in links_of(process) if link.startswith("socket:[")}


def _sockets_below(folder: Path, proc: Path) -> set[str]:
    """The numbers of the Unix sockets that were bound below a folder."""
    try:
        lines = (proc / "net" / "unix").read_text().splitlines()[1:]
    except OSError:
        return set()
    fields = (line.split(maxsplit=7) for line in lines)
    return {one[6] for one in fields if len(one) > 7 and one[7].startswith(f"{folder}/")}
