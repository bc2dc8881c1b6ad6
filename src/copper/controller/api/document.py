"""The API's description of itself: docs/reference/openapi.json, which is served at /v1/openapi.json too.

FastAPI writes what it knows of routes and bodies; what all routes have in common is added here: problems, roles, keys.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from copper.controller.access import roles_of
from copper.wire.problems import MEDIA_TYPE

Json = dict[str, Any]

# what clients ask of host agents; the rest of these is between controller and hosts
HOST_OPERATIONS = {
    ("GET", "/host/v1/facts"): ("facts", "A host, as it is at this moment", False),
    ("GET", "/host/v1/vms"): ("list_statuses", "The VMs of a host, as it knows them", False),
    ("GET", "/host/v1/vms/{name}"): ("show_status", "A VM as its host knows it", True),
    ("DELETE", "/host/v1/vms/{name}"): ("end", "Ends one VM on its host, if it is there", False),
    ("POST", "/host/v1/vms/{name}/freeze"): ("freeze", "Freezes a VM into an image", False),
    ("GET", "/host/v1/vms/{name}/log"): ("log", "What a VM wrote to its serial line lately", True),
}
# problems that every request may meet, those that change something, and those with a body
_ALL = {401: "no token, or none that is valid", 403: "not for this role", 422: "wrong input"}
_ALL |= {500: "failed", 504: "a deadline passed"}
_CHANGING = {409: "contradicts the current state", 507: "no room"}
_WITH_BODY = {413: "a body that is too long", 415: "a body that is not JSON"}
_DESCRIPTION = (
    "Errors are application/problem+json; branch on `code`, which is stable. Listings are JSON arrays of at most"
    " `limit` entries; where there are more, the header Link has the next page. `x-roles` says who may ask."
)
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same request with the same key has one effect and one answer, for a day",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "respond-async: answer with the operation, once it has begun",
    "schema": {"type": "string"},
}
_LINK = {"description": 'the next page, rel="next", if there is one', "schema": {"type": "string"}}
_LOCATION = {"description": "where the operation is", "schema": {"type": "string"}}


def document(app: FastAPI) -> Json:
    """The OpenAPI description of an application's /v1, and of what clients ask of host agents."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and _is_shown(route)]
    api = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=routes,
        separate_input_output_schemas=False,
    )
    for route in routes:
        for method in sorted(route.methods or ()):
            operation = api["paths"][route.path_format][method.lower()]
            _complete(operation, route, method)
    schemas = api["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    api["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    api["security"] = [{"token": []}]
    return api


def text_of(app: FastAPI) -> str:
    """The description as the file has it."""
    return json.dumps(document(app), indent=1, ensure_ascii=False) + "\n"


def _is_shown(route: APIRoute) -> bool:
    if route.path.startswith("/v1/"):
        return route.include_in_schema
    return any((method, route.path) in HOST_OPERATIONS for method in route.methods or ())


def _complete(operation: Json, route: APIRoute, method: str) -> None:
    roles: list[str] = list(roles_of(route) or ())
    if (of_host := HOST_OPERATIONS.get((method, route.path))) is not None:
        operation["operationId"], operation["summary"], users_too = of_host
        operation["tags"] = ["vms"]
        roles = ["admin", "host", *(["user"] if users_too else [])]
    operation["x-roles"] = roles
    if not roles:
        operation["security"] = []
    parameters: list[Json] = operation.setdefault("parameters", [])
    responses: Json = operation["responses"]
    if method != "GET" and getattr(route, "takes_keys", False):
        parameters.append(_KEY)
    if "202" in responses:
        parameters.append(_PREFER)
        responses["202"]["headers"] = {"Location": _LOCATION}
    if {"limit", "after"} <= {one["name"] for one in parameters}:
        responses["200"]["headers"] = {"Link": _LINK}
    if operation["operationId"] == "follow_events":
        content = responses["200"]["content"]
        responses["200"]["content"] = {"text/event-stream": content["application/json"]}
    if operation["operationId"] == "log":
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    if not parameters:
        del operation["parameters"]
    _add_problems(
        responses,
        method,
        has_body="requestBody" in operation,
        names_one="{" in route.path,
        asks_who=bool(roles),
    )


def _add_problems(
    responses: Json, method: str, *, has_body: bool, names_one: bool, asks_who: bool
) -> None:
    added = {**_ALL} if asks_who else {500: _ALL[500]}
    if method != "GET" or names_one:
        added[404] = "not there"
    if method != "GET":
        added |= _CHANGING
    if has_body:
        added |= _WITH_BODY
    responses.pop("422", None)
    for code, says in added.items():
        responses.setdefault(str(code), {"description": says})
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for status in sorted(responses):  # in order, so that the file changes little
        answer = responses.pop(status)
        if int(status) >= 400:
            answer["content"] = {MEDIA_TYPE: problem}
        responses[status] = answer
