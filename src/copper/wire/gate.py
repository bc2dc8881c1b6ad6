"""What is asked before all is found again waits; what can be answered at once is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from copper.wire.app import App, Receive, Scope, Send


class Gate:
    """Closed at first. Requests that may not pass wait until it is opened."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()

    def open(self) -> None:
        self._opened.set()

    def before(self, app: App, passes: Callable[[Scope], bool]) -> App:
        """The application behind this gate; `passes` says what need not wait."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if not self._opened.is_set() and not passes(scope):
                await self._opened.wait()
            await app(scope, receive, send)

        return serve


def only_reads_state(scope: Scope) -> bool:
    """Whether a request is answered from what is written down, without any host."""
    path = scope.get("path", "")
    reads = ("/v1/health", "/v1/clusters", "/v1/vms", "/v1/tickets", "/v1/users", "/v1/whoami")
    return scope.get("method") == "GET" and path.startswith(reads)


def is_no_call(scope: Scope) -> bool:
    """Of requests within the process only guests' calls wait: they may begin something new."""
    return scope.get("path") != "/v1/calls"
