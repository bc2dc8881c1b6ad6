"""SSH inside a virtual cluster: the key pair that its VMs log in to each other with, and the host keys they have.

The key pair is made with the virtual cluster, if its image takes one, and goes with it; it is in no listing. Host keys
are in the rows of VMs; those of a fork that is under way are known here as soon as each clone is ready.
"""

from __future__ import annotations

import os

from copper.controller.book import Book
from copper.controller.rows import LIVE, login_key
from copper.model.api import Vm, VmStatus
from copper.model.errors import NotFound
from copper.model.machine import Record
from copper.model.ssh import SECRET_BYTES, LoginKey, known_hosts_line, login_key_of

PAGE = 1000  # VMs in one answer: a message to a guest holds some 2,000


def new_login_key(cluster: str) -> LoginKey:
    """A key pair that was never there before."""
    return login_key_of(os.urandom(SECRET_BYTES), cluster)


class Logins:
    """What is known of them."""

    def __init__(self, book: Book, domain: str = "") -> None:
        """`domain`: below which the VMs have names too."""
        self._book = book
        self._domain = domain
        self._heard: dict[str, str] = {}  # host keys of VMs whose rows do not have them yet
        book.on_change(self._changed)

    def heard(self, status: VmStatus) -> None:
        """A VM of a fork is ready; its siblings may not be."""
        if status.ssh_host_key:
            self._heard[status.name] = status.ssh_host_key

    def _changed(self, key: str, before: Record | None, after: Record | None) -> None:
        table, _, name = key.partition("/")
        if table == "vms" and not (isinstance(after, Vm) and after.state == "starting"):
            self._heard.pop(name, None)

    def login_key(self, cluster: str) -> LoginKey:
        """Raises NotFound where the image takes none."""
        found = self._book.find(login_key(cluster), LoginKey)
        if found is None:
            image = self._book.cluster(cluster).image
            raise NotFound(
                f"virtual cluster {cluster} has no SSH key: image {image} takes none",
                advice="gc-vm exec needs neither ssh nor a key",
            )
        return found

    def known_hosts(self, cluster: str, after: int = -1) -> tuple[list[str], int | None]:
        """Lines for known_hosts of the live VMs with vmids above `after`, and where to go on; None: that is all."""
        vms = [vm for vm in self._book.vms(cluster) if vm.vmid > after and vm.state in LIVE]
        shown = vms[:PAGE]
        keys = ((vm, vm.ssh_host_key or self._heard.get(vm.name, "")) for vm in shown)
        lines = [known_hosts_line(self._names(vm), key) for vm, key in keys if key]
        return lines, shown[-1].vmid if len(vms) > PAGE else None

    def _names(self, vm: Vm) -> list[str]:
        longer = [f"{vm.name}.{self._domain}"] if self._domain else []
        return [vm.name, *longer, *(address for address in (vm.ip, vm.ip6) if address)]
