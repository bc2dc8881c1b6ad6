"""Reads the API's OpenAPI description as the methods that a client has; for `copper.client.generate`."""

from __future__ import annotations

import json
import pkgutil
import re
import textwrap
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

import copper.model

# What clients do not ask in this way: host agents only, or as a stream.
LEFT_OUT = ("/v1/calls", "/v1/ended", "/v1/events", "/metrics")
# Methods whose name is not the operation's id.
NAMES = {
    f"{verb}_cluster": verb
    for verb in (
        *("create", "boot", "delete", "kill", "limit"),
        *("pause", "unpause", "suspend", "resume"),
    )
}
# How a value is checked before it is sent, by the folder or the member that it stands in.
CHECKS = {
    "clusters": "a_cluster",
    "cluster": "a_cluster",
    "images": "an_image",
    "image": "an_image",
    "vms": "a_vm",
}


@dataclass(frozen=True)
class Value:
    """One argument of a method."""

    name: str
    kind: str
    required: bool
    default: Any = None
    check: str = ""

    @property
    def argument(self) -> str:
        """As it stands in the signature."""
        if self.required:
            return f"{self.name}: {self.kind}"
        kind = (
            self.kind if self.kind.endswith("None") or not self.left_out else f"{self.kind} | None"
        )
        return f"{self.name}: {kind} = {self.given_default!r}"

    @property
    def left_out(self) -> bool:
        """Whether None says that it is not sent."""
        return not self.required and self.given_default is None

    @property
    def given_default(self) -> Any:
        # a record's or a list's default is the API's business
        return None if isinstance(self.default, dict | list) else self.default

    @property
    def sent(self) -> str:
        """The expression that is sent."""
        if not self.check:
            return self.name
        checked = f"check.{self.check}({self.name})"
        return f"{checked} if {self.name} is not None else None" if self.left_out else checked


@dataclass(frozen=True)
class Method:
    """One operation of the API as a method of the client."""

    name: str
    tag: str
    verb: str
    path: str
    doc: str
    answer: str
    in_path: list[Value]
    query: list[Value]
    body: list[Value] | None
    keyed: bool
    waits: bool
    paged: bool
    records: set[str] = field(default_factory=set)  # all nouns in its signature

    @property
    def answers(self) -> set[str]:
        """The records that it may be answered with."""
        words = set(re.findall(r"\w+", self.answer))
        return (words & self.records) | ({"Operation"} if self.waits else set())


class Description:
    """An OpenAPI description, and the records that it names."""

    def __init__(self, text: str) -> None:
        self.api: dict[str, Any] = json.loads(text)
        self.schemas: dict[str, Any] = self.api["components"]["schemas"]
        self.modules, self._choices = nouns()
        self._named: set[str] = set()

    def methods(self) -> list[Method]:
        """All, in the description's order."""
        return [
            self._method(path, verb, operation)
            for path, item in self.api["paths"].items()
            if not path.startswith(LEFT_OUT)
            for verb, operation in item.items()
            if verb in ("get", "post", "put", "patch", "delete")
        ]

    def _method(self, path: str, verb: str, operation: dict[str, Any]) -> Method:
        self._named = set()
        parameters = operation.get("parameters", [])
        headers = {one["name"].lower() for one in parameters if one["in"] == "header"}
        answers = operation["responses"]
        good = min(code for code in answers if code != "202" or len(answers) == 1)
        query = [self._parameter(one, path) for one in parameters if one["in"] == "query"]
        method = Method(
            name=name_of(operation["operationId"]),
            tag=(operation.get("tags") or ["other"])[0],
            verb=verb.upper(),
            path=path,
            doc=doc_of(operation),
            answer=self._answer(answers[good]),
            in_path=[self._parameter(one, path) for one in parameters if one["in"] == "path"],
            query=query,
            body=self._body(operation.get("requestBody"), path),
            keyed="idempotency-key" in headers,
            waits="202" in answers and "prefer" in headers,
            paged={"limit", "after"} <= {value.name for value in query},
        )
        if method.waits:
            self._named.add("Operation")
        return Method(**{**vars(method), "records": set(self._named)})

    def _parameter(self, one: dict[str, Any], path: str) -> Value:
        schema = one["schema"]
        if one["in"] == "path":
            folder = path.partition("/{" + one["name"])[0].rpartition("/")[2]
            return Value(one["name"], "str", True, check=CHECKS.get(folder, "a_part"))
        return self._value(one["name"], schema, one.get("required", False))

    def _value(self, name: str, schema: dict[str, Any], required: bool) -> Value:
        check = CHECKS.get(name, "") if name in ("cluster", "image") else ""
        return Value(name, self.annotation(schema), required, schema.get("default"), check)

    def _body(self, body: dict[str, Any] | None, path: str) -> list[Value] | None:
        if body is None:
            return None
        schema = body["content"]["application/json"]["schema"]
        schema = self.schemas[schema["$ref"].rpartition("/")[2]]
        needed = schema.get("required", [])
        values = [self._value(n, s, n in needed) for n, s in schema["properties"].items()]
        if path == "/v1/clusters":
            values = [
                Value("name", "str", True, check="a_cluster") if v.name == "name" else v
                for v in values
            ]
        return values

    def _answer(self, answer: dict[str, Any]) -> str:
        content = answer.get("content", {})
        if "application/json" in content:
            return self.annotation(content["application/json"]["schema"])
        return "bytes" if content else "None"

    def annotation(self, schema: dict[str, Any]) -> str:
        """A schema as Python's annotation."""
        if "$ref" in schema:
            return self._record(schema["$ref"].rpartition("/")[2])
        if "allOf" in schema:
            return self.annotation(schema["allOf"][0])
        if "anyOf" in schema:
            kinds = [self.annotation(one) for one in schema["anyOf"]]
            return " | ".join(dict.fromkeys(sorted(kinds, key=lambda kind: kind == "None")))
        if "enum" in schema or "const" in schema:
            values = schema.get("enum") or [schema["const"]]
            if (name := self._choices.get(tuple(values))) is not None:
                return self._record(name)
            return f"Literal[{', '.join(json.dumps(value) for value in values)}]"
        match schema.get("type"):
            case "array":
                return f"list[{self.annotation(schema.get('items', {}))}]"
            case "object":
                more = schema.get("additionalProperties")
                inner = self.annotation(more) if isinstance(more, dict) else "Any"
                return f"dict[str, {inner}]"
            case str(kind):
                plain = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
                return plain.get(kind, "None")
        return "Any"

    def _record(self, name: str) -> str:
        if name not in self.modules:
            raise ValueError(f"{name} is not in copper.model")
        self._named.add(name)
        return name


def nouns() -> tuple[dict[str, str], dict[tuple[Any, ...], str]]:
    """Of `copper.model`: each record's and choice's module by its name, each choice by its values."""
    modules: dict[str, str] = {}
    choices: dict[tuple[Any, ...], str] = {}
    for info in pkgutil.iter_modules(copper.model.__path__):
        module = import_module(f"copper.model.{info.name}")
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                modules[name] = kind.__module__
            elif get_origin(kind) is Literal and not name.startswith("_"):
                modules.setdefault(name, module.__name__)
                choices.setdefault(get_args(kind), name)
    return modules, choices


def name_of(operation_id: str) -> str:
    """A method's name: `list_vms` is `vms`, what reads one is its noun."""
    if operation_id in NAMES:
        return NAMES[operation_id]
    for reads in ("list_", "get_", "show_"):
        operation_id = operation_id.removeprefix(reads)
    return operation_id


def doc_of(operation: dict[str, Any]) -> str:
    """What an operation says of itself, as a docstring without its quotes."""
    text = operation.get("description") or operation.get("summary") or operation["operationId"]
    text = " ".join(text.split("\n\n")[0].split()).rstrip(".")
    return "\n".join(textwrap.wrap(f"{text}.", 90))
