"""Calls of programs in a guest: each a task, bounded in number, ended with its program or session."""

from __future__ import annotations

import asyncio
import errno as errnos
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from copper.model.errors import CopperError
from copper.wire import trace
from copper.wire.messages import Call

CALLS_MOST = 256  # in flight; further ones are answered EBUSY

OnCall = Callable[[str, dict[str, Any], int], Awaitable[dict[str, Any]]]

log = logging.getLogger(__name__)


class GuestCalls:
    """Answers calls with `on_call`, through `send` when there is `room`.

    What a former session asked gets no answer.
    """

    def __init__(
        self,
        on_call: OnCall,
        send: Callable[[dict[str, Any]], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._on_call, self._send, self._room = on_call, send, room
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def take(self, call: Call) -> bool:
        """Begins to answer; false for a call that is being answered."""
        if call.call in self._running:
            return False
        if len(self._running) + len(self._ending) >= CALLS_MOST:
            self._reply(call.call, errnos.EBUSY, "too many calls of this guest are in flight")
        else:
            self._running[call.call] = asyncio.create_task(self._answer(call))
        return True

    def cancel(self, call: int) -> None:
        """The program has gone away."""
        task = self._running.pop(call, None)
        if task is not None:
            self._end(task)

    def leave(self) -> None:
        """The session is over."""
        running, self._running = self._running, {}
        for task in running.values():
            self._end(task)

    async def ended(self) -> None:
        """Waits until all that was cancelled has ended. Nothing is taken after, and whoever sent is let go."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._send, self._room = _unsent, _no_wait

    def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _answer(self, call: Call) -> None:
        number = call.call
        errno, message, result = 0, "", None
        try:
            with trace.span(f"gc {call.verb}", f"call {number}"):
                result = await self._on_call(call.verb, call.args, number)
        except CopperError as error:
            errno, message = error.errno, str(error)
        except Exception:  # a defect here must not leave the program waiting for ever
            log.exception("a guest's call failed: %s", call.verb)
            errno, message = errnos.EIO, f"{call.verb}: the host failed; its log says how"
        await self._room()  # a guest that reads no answers gets no further ones
        if self._is_current(number):
            del self._running[number]
            try:
                self._reply(number, errno, message, result)
            except CopperError as error:  # a result that no message holds
                self._reply(number, errnos.EIO, f"{call.verb}: {error}")

    def _is_current(self, number: int) -> bool:
        """Whether this task still answers the call: not cancelled, nor of a former session."""
        return self._running.get(number) is asyncio.current_task()

    def _reply(
        self, number: int, errno: int, message: str, result: dict[str, Any] | None = None
    ) -> None:
        outcome = {"message": message} if errno else {"result": result or {}}
        self._send({"type": "reply", "call": number, "errno": errno, **outcome})


def _unsent(_: dict[str, Any]) -> None:
    """A channel that is closed takes nothing."""


async def _no_wait() -> None:
    """There is no room to be waited for."""
