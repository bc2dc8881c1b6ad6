"""How a build says what it is doing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Told of every step that takes a while: entered as it begins, left as it ends."""

    def step(self, name: str) -> AbstractContextManager[None]: ...


class Silent:
    """Says nothing."""

    def step(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()
