"""Who is served next when room comes back: first come, first served, with fairness between users. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """A request in line: whose it is, and when it came."""

    owner: str
    number: int
    request: T


class Line(Generic[T]):
    """Requests that wait. The user who holds least is next; of one user, who came first.

    A request that cannot be met now holds back all behind it, so that small ones do not starve it; one that its
    own user's quota holds back, or that no host could ever meet, holds back nobody.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting[T]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, owner: str, request: T) -> Waiting[T]:
        self._last += 1
        one = Waiting(owner, self._last, request)
        self._waiting[one.number] = one
        return one

    def leave(self, one: Waiting[T]) -> None:
        self._waiting.pop(one.number, None)

    def order(self, held: Mapping[str, int]) -> list[Waiting[T]]:
        """All in the order in which they are to be served, by what each user holds."""
        return sorted(self._waiting.values(), key=lambda one: (held.get(one.owner, 0), one.number))

    def serve(
        self,
        held: Callable[[], Mapping[str, int]],
        grant: Callable[[Waiting[T]], bool],
        steps_aside: Callable[[Waiting[T]], bool],
    ) -> int:
        """Grants as many as can be, in order; returns how many.

        `grant` says whether it could; it changes what `held` says. `steps_aside`: whether one that could not be
        granted lets those behind it pass.
        """
        served = 0
        passed: set[int] = set()
        while True:
            following = (one for one in self.order(held()) if one.number not in passed)
            one = next(following, None)
            if one is None:
                return served
            if grant(one):
                self.leave(one)
                served += 1
            elif steps_aside(one):
                passed.add(one.number)
            else:
                return served
