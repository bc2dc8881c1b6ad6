"""What every HTTP application of Copper does the same way: errors become problems."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from copper.model.errors import BadInput, Conflict, CopperError, NotFound
from copper.wire.problems import MEDIA_TYPE, to_problem

log = logging.getLogger(__name__)


def _answer(error: CopperError) -> JSONResponse:
    return JSONResponse(to_problem(error), status_code=error.http_status, media_type=MEDIA_TYPE)


def new_app(title: str, version: str) -> FastAPI:
    """A FastAPI application whose every error is problem+json with a stable code."""
    app = FastAPI(title=title, version=version, docs_url=None, redoc_url=None)

    @app.exception_handler(CopperError)
    async def copper_error(_: Request, error: CopperError) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _answer(BadInput(f"{where or 'the body'}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        if error.status_code == 404:
            return _answer(NotFound(f"there is nothing at {path}"))
        if error.status_code == 405:
            return _answer(Conflict(f"{path} does not take {request.method}"))
        return _answer(BadInput(str(error.detail)))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return _answer(
            CopperError(f"unexpected: {type(error).__name__}: {error}", advice="see the log")
        )

    return app
