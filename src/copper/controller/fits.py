"""What of a wish fits: on hosts, under limits and quotas, and in the pools of public networks."""

from __future__ import annotations

from collections.abc import Callable

from copper.controller.book import Book
from copper.controller.capacity import Capacity, left_of
from copper.controller.leases import Leases, wanted
from copper.controller.placement import Room, Wish, ever, place
from copper.controller.rows import ClusterRow, user_key
from copper.controller.terms import OverLimit
from copper.model.api import Requirements
from copper.model.users import Quota, User

Expected = Callable[[ClusterRow], int]  # bytes to reserve for one more clone


class Fits:
    """How many more VMs a virtual cluster could have, and where."""

    def __init__(self, book: Book, capacity: Capacity, leases: Leases, expected: Expected) -> None:
        self._book = book
        self._capacity = capacity
        self._leases = leases
        self._expected = expected

    def ever(self, row: ClusterRow, vms: int, least: int, near: str) -> bool:
        """Whether as many would fit if the hosts that answer were empty."""
        return ever(self._rooms(near), self._wish(row, vms, least, near)) >= least

    def places(
        self, row: ClusterRow, vms: int, least: int, near: str
    ) -> tuple[dict[str, int], int]:
        """Where so many VMs of a virtual cluster would go now, and the bytes to reserve for each.

        `near`: the host of the VM that is forked; empty: it is the master. Raises NoRoom; quotas, limits and public
        addresses count as room.
        """
        reserved = self._expected(row)
        cpus = row.shape.cpus
        allowed, why = self._allowed(row, cpus, reserved)
        if allowed is not None and allowed < least:
            raise OverLimit(why)
        addresses = self._leases.most(wanted(row, master=not near), least)
        most = min(number for number in (vms, allowed, addresses) if number is not None)
        return place(self._rooms(near), self._wish(row, most, least, near)), reserved

    def _wish(self, row: ClusterRow, vms: int, least: int, near: str) -> Wish:
        return Wish(
            vms=vms,
            least=least,
            cpus=row.shape.cpus,
            memory=self._expected(row),
            strategy=row.placement,
            near=near,
            requires=self._requires(row, near),
        )

    def _requires(self, row: ClusterRow, near: str) -> Requirements:
        """A VM's addresses are brought to it by a host that has their networks."""
        networks = wanted(row, master=not near)
        if not networks:
            return row.requires
        both = sorted({*row.requires.networks, *networks})
        return row.requires.model_copy(update={"networks": both})

    def _rooms(self, near: str) -> list[Room]:
        one = self._capacity.room(near) if near else None
        # a fork stays where its parent is unless another host can fetch its image
        return [one] if one is not None and not one.facts.fetches else self._capacity.rooms()

    def _allowed(self, row: ClusterRow, cpus: int, reserved: int) -> tuple[int | None, str]:
        user = self._book.find(user_key(row.owner), User)
        quota = user.quota if user is not None else Quota()
        of_user = left_of(self._capacity.owners[row.owner], quota, cpus, reserved)
        of_cluster = left_of(self._capacity.clusters[row.name], row.limits, cpus, reserved)
        if of_cluster is not None and (of_user is None or of_cluster <= of_user):
            return (
                of_cluster,
                f"virtual cluster {row.name} may have {of_cluster} more VMs by its limits",
            )
        return of_user, f"user {row.owner} may have {of_user} more VMs by their quota"
