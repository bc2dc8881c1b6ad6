"""What the VMs of a virtual cluster are told of each other, and where names are: addresses, as VMs come and go.

A VM that begins is told of all in its session, its siblings of the same fork included; the others when the last of
those that come or go at once has come or gone, which is before whoever asked for it is answered.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator

from copper.dns.options import options_of
from copper.host.vm import Vm
from copper.model.names import vm_name
from copper.model.settings import Settings
from copper.net.addresses import PREFIX, ipv4_of, prefix_for


class Names:
    """Of one host's VMs that have a network."""

    def __init__(self, vms: Callable[[], Iterable[Vm]], settings: Settings) -> None:
        """Raises BadInput for settings that are none."""
        self._vms = vms
        options = options_of(settings)
        self._domain = options.domain if options.at is not None else ""
        self._networked: set[str] = set()
        self._changing: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def changing(self, cluster: str) -> Iterator[None]:
        """A VM comes or goes in this block: it is there, or is not, at its end."""
        self._changing[cluster] += 1
        try:
            yield
        finally:
            self._changing[cluster] -= 1
            if not self._changing[cluster]:
                del self._changing[cluster]
                self.tell(cluster)

    def for_session(self, vm: Vm, *, siblings: bool = False) -> tuple[str, int, str]:
        """The lines for /etc/hosts, the bits of the network, and the domain below which its resolver finds names.

        For a VM that begins a session. Without a domain nobody answers names.
        """
        if not vm.machine.has_network:
            return *vm.told, ""
        self._networked.add(vm.identity.cluster)
        also = {vm.identity.vmid, *(vm.identity.vmids if siblings else ())}
        vm.told = self._lines(vm.identity.cluster, also)
        return *vm.told, self._domain

    def before_link_up(self, vm: Vm) -> None:
        """Others learn of a wider network before one of its VMs speaks from outside of theirs."""
        lines, prefix = vm.told
        if prefix < PREFIX and lines:
            for other in self._of(vm.identity.cluster):
                if other.told[1] > prefix:
                    _tell(other, (lines, prefix))

    def tell(self, cluster: str) -> None:
        """Tells those that know otherwise how it is now."""
        if cluster not in self._networked:
            return
        told = self._lines(cluster)
        for vm in self._of(cluster):
            if vm.told != told:
                _tell(vm, told)
        if not told[0]:
            self._networked.discard(cluster)

    def _of(self, cluster: str) -> list[Vm]:
        return [vm for vm in self._vms() if vm.identity.cluster == cluster]

    def _lines(self, cluster: str, also: Iterable[int] = ()) -> tuple[str, int]:
        vmids = sorted({vm.identity.vmid for vm in self._of(cluster)}.union(also))
        lines = "".join(f"{ipv4_of(vmid)} {vm_name(cluster, vmid)}\n" for vmid in vmids)
        return lines, prefix_for(vmids)


def _tell(vm: Vm, told: tuple[str, int]) -> None:
    if vm.machine.guest.tell_hosts(*told):
        vm.told = told
