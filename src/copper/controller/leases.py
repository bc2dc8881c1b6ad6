"""Addresses of public networks: how many are left, who has which. They follow the book's rows, as room does.

A lease is written with the row that writes a VM's name down, and deleted with the one that ends it. An address is free
once that is durable: a write that the store takes back must find it as it was.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

from copper.controller.book import Book
from copper.controller.pools import Pool
from copper.controller.rows import ClusterRow, NetworkRow, lease_key, network_key
from copper.controller.terms import NoAddress
from copper.model.api import Vm
from copper.model.machine import Record
from copper.model.networks import Lease, PublicAddress
from copper.model.tickets import Ticket


def wanted(row: ClusterRow, *, master: bool) -> list[str]:
    """The networks in which its master, or each of its clones, gets an address."""
    return [one.name for one in row.networks if master or not one.master_only]


class Leases:
    """What is given of each network's pool, and promised to unused tickets."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._pools: dict[str, Pool] = {}
        self._promised: collections.Counter[str] = collections.Counter()
        self._of: dict[str, dict[str, Lease]] = {}  # by VM and address
        self._going: dict[str, Lease] = {}  # deleted, and not known to be durable
        book.on_change(self._seen)
        book.on_settled(self._settled)

    # what follows the rows

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        if isinstance(before, Ticket) and before.status == "granted":
            self._promise(before, -1)
        if isinstance(after, Ticket) and after.status == "granted":
            self._promise(after, 1)
        if isinstance(before, Lease):
            self._forget(key, before)
        if isinstance(after, Lease):
            self._take(key, after)
        if isinstance(after, NetworkRow):
            self._open(after)
        elif isinstance(before, NetworkRow):
            del self._pools[before.name]

    def _open(self, row: NetworkRow) -> None:
        pool = self._pools[row.name] = Pool(row.pool)
        # at a start the leases of it may have been read before
        given = (lease for mine in self._of.values() for lease in mine.values())
        for lease in (*given, *self._going.values()):
            if lease.network == row.name:
                pool.take(lease.address)

    def _promise(self, ticket: Ticket, sign: int) -> None:
        for network in ticket.networks:
            self._promised[network] += sign * ticket.vms

    def _take(self, key: str, lease: Lease) -> None:
        self._going.pop(key, None)
        self._of.setdefault(lease.vm, {})[lease.address] = lease
        if lease.network in self._pools:
            self._pools[lease.network].take(lease.address)

    def _forget(self, key: str, lease: Lease) -> None:
        self._going[key] = lease
        mine = self._of[lease.vm]
        del mine[lease.address]
        if not mine:
            del self._of[lease.vm]

    def _settled(self, keys: Iterable[str]) -> None:
        for key in keys:
            gone = self._going.pop(key, None)
            if gone is not None and gone.network in self._pools:
                self._pools[gone.network].give_back(gone.address)

    # how many are left

    def size(self, network: str) -> int:
        """How many VMs a network has addresses for; 0: there is no such network."""
        pool = self._pools.get(network)
        return pool.size if pool else 0

    def left(self, network: str) -> int:
        """How many more VMs could have an address."""
        pool = self._pools.get(network)
        return max(0, pool.free - self._promised[network]) if pool else 0

    def most(self, networks: Sequence[str], least: int) -> int | None:
        """How many VMs can have addresses in all of these; None: any number. Raises NoAddress below `least`."""
        if not networks:
            return None
        left, network = min((self.left(network), network) for network in networks)
        if left < least:
            raise NoAddress(network, left, least)
        return left

    def promised(self, network: str) -> int:
        """To unused tickets."""
        return self._promised[network]

    # giving and taking back

    def give(self, row: ClusterRow, vms: Sequence[Vm]) -> tuple[list[Vm], dict[str, Lease]]:
        """These VMs with their addresses, and the leases to be written with them, where no other may be.

        All of them are the master, or none is. Raises NoAddress where they were not promised.
        """
        leases: dict[str, Lease] = {}
        given: list[list[str]] = [[] for _ in vms]
        for network in wanted(row, master=any(vm.vmid == 0 for vm in vms)):
            pool = self._pools.get(network)
            if pool is None or pool.free < len(vms):
                raise NoAddress(network, pool.free if pool else 0, len(vms))
            for vm, mine, addresses in zip(vms, given, pool.pick(len(vms)), strict=True):
                mine += addresses
                for address in addresses:
                    leases[lease_key(address)] = Lease(
                        address=address, network=network, vm=vm.name, cluster=vm.cluster
                    )
        with_theirs = [
            vm.model_copy(update={"public": mine}) if mine else vm
            for vm, mine in zip(vms, given, strict=True)
        ]
        return with_theirs, leases

    def gone_with(self, vms: Iterable[Vm]) -> list[str]:
        """The keys of the leases that go with these VMs."""
        return [lease_key(address) for vm in vms for address in self._of.get(vm.name, ())]

    def of(self, vm: str) -> list[Lease]:
        """What a VM has."""
        return list(self._of.get(vm, {}).values())

    def of_network(self, network: str) -> list[Lease]:
        """What is given of a network."""
        return [one for one in self._book.all("leases", Lease) if one.network == network]

    def addresses(self, vm: Vm) -> list[PublicAddress]:
        """A VM's addresses as its host is told of them, in the order in which it has them."""
        mine = self._of.get(vm.name, {})
        found = []
        for address in vm.public:
            lease = mine.get(address)
            row = self._book.find(network_key(lease.network), NetworkRow) if lease else None
            if row is not None:
                found.append(
                    PublicAddress(
                        network=row.name,
                        address=address,
                        mode="routed" if ":" in address else row.mode,  # of IPv6 there are enough
                        bridge=row.bridge,
                    )
                )
        return found
