"""The client's methods are what the API's description says, and the fake API is the API's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from copper.client import generate
from copper.client.describe import LEFT_OUT, Description
from tests.unit.fake_api import fake_app
from tests.unit.rules import ROOT, text_of

OPENAPI = text_of(Path("docs/reference/openapi.json"))


def test_the_methods_are_not_stale() -> None:
    made = generate.modules(OPENAPI)
    there = {path.name: path.read_text() for path in generate.PACKAGE.glob("*.py")}
    assert there == made, "python -m copper.client.generate"
    assert generate.OPENAPI == ROOT / "docs/reference/openapi.json"


def test_every_operation_is_a_method_or_left_out_on_purpose() -> None:
    paths = json.loads(OPENAPI)["paths"]
    wanted = {
        (verb.upper(), path)
        for path, item in paths.items()
        for verb in item
        if not path.startswith(LEFT_OUT)
    }
    methods = Description(OPENAPI).methods()
    assert {(method.verb, method.path) for method in methods} == wanted
    names = [method.name for method in methods]
    assert len(names) == len(set(names))


def test_the_fake_api_has_the_api_s_own_routes() -> None:
    paths = json.loads(OPENAPI)["paths"]
    known = {(verb.upper(), shape(path)) for path, item in paths.items() for verb in item}
    fake = {
        (method, shape(route.path))
        for route in fake_app({}).routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    # one route of the fake serves several verbs of a virtual cluster
    assert fake - known == {("POST", "/v1/clusters/{}/{}")}


def shape(path: str) -> str:
    """A path, whatever its parameters are called."""
    return re.sub(r"{\w+}", "{}", path)


def described(path: str, verb: str, operation: dict[str, Any], **schemas: Any) -> str:
    """The only module that a small description gives."""
    operation = {"operationId": "do_it", "tags": ["things"], "summary": "Does it", **operation}
    operation.setdefault("responses", {"204": {"description": ""}})
    text = json.dumps({"paths": {path: {verb: operation}}, "components": {"schemas": schemas}})
    return generate.modules(text)["things.py"]


def parameter(name: str, where: str, schema: dict[str, Any], required: bool = False) -> Any:
    return {"name": name, "in": where, "required": required, "schema": schema}


def test_parts_of_a_path_are_checked() -> None:
    name = parameter("name", "path", {"type": "string"}, True)
    for folder, check in (("clusters", "a_cluster"), ("vms", "a_vm"), ("users", "a_part")):
        made = described(f"/v1/{folder}/{{name}}/x", "get", {"parameters": [name]})
        assert f'f"/v1/{folder}/{{check.{check}(name)}}/x"' in made


def test_a_body_s_members_are_arguments() -> None:
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/New"}}}}
    schema = {
        "required": ["size"],
        "properties": {
            "size": {"type": "integer"},
            "colour": {"enum": ["red", "blue"], "default": "red"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "span": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": 5},
        },
    }
    made = described("/v1/things", "post", {"requestBody": body}, New=schema)
    assert "size: int,\n" in made
    assert 'colour: Literal["red", "blue"] = "red",' in made
    assert "note: str | None = None," in made
    assert "span: float | None = 5," in made  # None says something else than nothing
    assert re.search(
        r'"size": size,\s+"colour": colour,\s+"span": span,\s+\*\*given\(note=note\)', made
    )


def test_keys_waiting_and_pages() -> None:
    operation = {
        "parameters": [
            parameter("Idempotency-Key", "header", {"type": "string"}),
            parameter("Prefer", "header", {"type": "string"}),
        ],
        "responses": {
            "202": {
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Operation"}}
                }
            },
            "204": {},
        },
    }
    made = described("/v1/things", "post", operation)
    assert "keyed=True, wait=wait" in made
    assert "def do_it(self, *, wait: Literal[False]) -> Operation: ..." in made
    listing = {
        "parameters": [
            parameter("limit", "query", {"type": "integer"}),
            parameter("after", "query", {"type": "string"}),
            parameter("host", "query", {"type": "string"}),
        ],
        "responses": {
            "200": {
                "content": {
                    "application/json": {
                        "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Vm"}}
                    }
                }
            }
        },
    }
    made = described("/v1/things", "get", listing)
    assert "def do_it(self, *, host: str | None = None) -> list[Vm]:" in made
    assert "def iter_do_it(self, *, host: str | None = None) -> Iterator[Vm]:" in made


def test_a_record_that_nobody_defines_is_an_error() -> None:
    answer = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ghost"}}}}
    with pytest.raises(ValueError, match="Ghost"):
        described("/v1/things", "get", {"responses": {"200": answer}})
