"""What every HTTP application of Copper does the same way: errors become problems, bodies have a most length."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from copper.model.errors import BadInput, CopperError, NotFound
from copper.wire.problems import MEDIA_TYPE, to_problem

log = logging.getLogger(__name__)

BODY_MOST = 1 << 20  # bytes of a request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def problem_response(
    error: CopperError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer that an error is. `status`: where HTTP has a closer word for it than the error's class."""
    problem = to_problem(error)
    if status is not None:
        problem["status"] = status
    return JSONResponse(
        problem,
        status_code=problem["status"],
        media_type=MEDIA_TYPE,
        headers=dict(headers) if headers else None,
    )


def unexpected(error: BaseException) -> CopperError:
    """What is said of an error that nobody foresaw; the log has the rest."""
    return CopperError(f"unexpected: {type(error).__name__}: {error}", advice="see the log")


def new_app(title: str, version: str) -> FastAPI:
    """A FastAPI application whose every error is problem+json with a stable code."""
    app = FastAPI(
        title=title,
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a path has one form, and who may ask it is decided by that
    )
    app.add_middleware(Bodies)

    @app.exception_handler(CopperError)
    async def copper_error(_: Request, error: CopperError) -> JSONResponse:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        kind = request.headers.get("content-type", "")
        if tuple(first["loc"]) == ("body",) and "json" not in kind and first["type"] != "missing":
            shown = kind or "one without a content type"
            expected = BadInput(f"expected a body of application/json, got {shown:.60}")
            return problem_response(expected, status=415)
        return problem_response(BadInput(_one_line(first)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        match error.status_code:
            case 404:
                return problem_response(NotFound(f"there is nothing at {path:.200}"))
            case 405:
                allowed = ", ".join(methods_at(app, request.scope))
                refused = BadInput(
                    f"{path:.200} does not take {request.method}", advice=f"it takes {allowed}"
                )
                return problem_response(refused, status=405, headers={"allow": allowed})
            case 413:
                return problem_response(BadInput(str(error.detail)), status=413)
        return problem_response(BadInput(str(error.detail)))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem_response(unexpected(error))

    return app


def add_routes(app: FastAPI, *routers: APIRouter) -> None:
    """Has the application serve these routers' routes: as they are, so that each can be read from `app.routes`."""
    for router in routers:
        app.router.routes.extend(router.routes)


def methods_at(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that a path takes."""
    found: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(dict(scope))[0] != Match.NONE:
            found |= route.methods or set()
    return sorted(found)


def _one_line(error: Mapping[str, Any]) -> str:
    """What a validation says, for people."""
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']}"
    where = ".".join(str(part) for part in error["loc"][1:])
    if error["type"] == "extra_forbidden":
        return (
            f"{where:.100}: there is no such {'filter' if error['loc'][0] == 'query' else 'member'}"
        )
    return f"{where or 'the body'}: {error['msg']}"


class Bodies:
    """Refuses bodies above BODY_MOST bytes, before more of them is held."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_long = f"a body has at most {BODY_MOST} bytes"
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > BODY_MOST:
                await problem_response(BadInput(too_long), status=413)(scope, receive, send)
                return
        length = 0

        async def counted() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > BODY_MOST:
                raise HTTPException(413, too_long)
            return message

        await self._app(scope, counted, send)
