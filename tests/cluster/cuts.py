"""A controller that is killed: from one moment on nothing that it does reaches the store or a host."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, cast

from copper.controller.hosts import Host
from copper.store.contract import Store


class Dead(BaseException):
    """What a killed controller meets: no handler of errors may treat it as an answer."""


class Cut:
    """`kill` cuts all wires at once; a call that is under way has its effect, and its answer is lost."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()

    def kill(self) -> None:
        self.dead.set()

    def store(self, store: Store) -> Store:
        return cast("Store", _Wire(store, self))

    def host(self, host: object) -> Host:
        return cast("Host", _Wire(host, self))


class _Wire:
    """Passes calls on until it is cut."""

    def __init__(self, to: object, cut: Cut) -> None:
        self._to, self._cut = to, cut

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._to, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            self._check()
            answer = await found(*args, **named)
            self._check()
            return answer

        return call

    def _check(self) -> None:
        if self._cut.dead.is_set():
            raise Dead
