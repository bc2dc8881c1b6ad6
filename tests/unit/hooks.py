"""Hooks of a guest's real agent: they are put where an administrator would, and say that they ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.unit.guests import DEADLINE, TICKET, Guest, running_guest

CLONED = {"vmid": 0, "vmids": [1, 2], "ticket": TICKET}
FOLDERS = ("pre-clone.d", "post-clone.d", "post-clone-on-clone.d", "post-clone-on-master.d")


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with running_guest() as guest:
        yield guest


def hook(guest: Guest, name: str, text: str, mode: int = 0o755) -> None:
    """Puts a hook where an administrator would; `$OUT` is the guest's folder."""
    path = guest.folder / "etc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nOUT={guest.folder}\n{text}\n")
    path.chmod(mode)


def noted(guest: Guest) -> list[str]:
    """The lines that hooks left in $OUT/ran."""
    path = guest.folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def note_all(guest: Guest) -> None:
    """One hook of every kind, which says that it ran."""
    for name in ("pre-clone", "post-clone", *(f"{folder}/50-x" for folder in FOLDERS)):
        hook(guest, name, f'echo "$GC_VMID {name}" >>$OUT/ran')


class Host:
    """An on_call that says what came, and what hooks had run by then."""

    def __init__(self, guest: Guest, outcome: dict[str, Any] | Exception = CLONED) -> None:
        self.came: list[tuple[str, list[str]]] = []
        self.calls: asyncio.Queue[int] = asyncio.Queue()
        self.go = asyncio.Event()
        self.go.set()
        self._guest, self._outcome = guest, outcome

    async def __call__(self, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        self.came.append((verb, noted(self._guest)))
        self.calls.put_nowait(call)
        await self.go.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    async def next(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.calls.get()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
