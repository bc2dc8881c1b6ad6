"""JSON over HTTP between controller and host agents, by whatever transport joins them."""

from __future__ import annotations

import json
from typing import Any

import httpx2

from copper.model.errors import CopperError, TimedOut
from copper.model.machine import Record
from copper.wire import trace
from copper.wire.problems import from_problem


class Peer:
    """The other side's API: requests that answer with JSON or raise the error that they were answered with."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def request(
        self,
        method: str,
        path: str,
        body: Record | dict[str, Any] | None = None,
        *,
        timeout_s: float = 120,
    ) -> Any:
        """The answer's JSON, None for an empty one. Raises CopperError of the class that was answered."""
        content = None
        if body is not None:
            content = body.model_dump_json() if isinstance(body, Record) else json.dumps(body)
        headers = {"content-type": "application/json"} if body is not None else None
        try:
            with trace.span(method, path):
                response = await self._client.request(
                    method, path, content=content, headers=headers, timeout=timeout_s
                )
        except httpx2.TimeoutException:
            raise TimedOut(f"{method} {path} had no answer within {timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise CopperError(f"{method} {path}: {error}") from error
        if response.is_success:
            return response.json() if response.content else None
        try:
            problem = response.json()
        except ValueError:
            raise CopperError(f"{method} {path} was answered with {response.status_code}") from None
        raise from_problem(problem)

    async def close(self) -> None:
        await self._client.aclose()
