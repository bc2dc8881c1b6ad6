"""Writes the client's methods from the API's own description: `python -m copper.client.generate`.

It reads docs/reference/openapi.json and writes the package `copper.client.api`, a module for each
tag. Only who changes the API runs it; it wants ruff, to lay out what it wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from copper.client.describe import Description, Method, Value

ROOT = Path(__file__).resolve().parents[3]
OPENAPI = ROOT / "docs/reference/openapi.json"
PACKAGE = Path(__file__).parent / "api"
MADE = "Made by `python -m copper.client.generate` from docs/reference/openapi.json."


def rendered(method: Method) -> Iterator[str]:
    """The lines of a method, with its forms that do not wait or go page by page."""
    query = [v for v in method.query if not (method.paged and v.name in ("limit", "after"))]
    values = [*method.in_path, *(method.body or []), *query]
    first = [v for v in query if v.name == "cluster"]  # what a listing is most often asked for
    arguments = ["self", *(v.argument for v in values if v.required or v in first)]
    optional = [v.argument for v in values if not v.required and v not in first]
    path = method.path
    for value in method.in_path:
        path = path.replace("{" + value.name + "}", "{" + value.sent + "}")
    sends = [f'f"{path}"' if method.in_path else f'"{path}"']
    members = ", ".join(f'"{v.name}": {v.sent}' for v in query)
    if method.paged:
        yield from _paged(method, arguments, optional, sends[0], members)
        return
    if query:
        sends.append(f"query={{{members}}}")
    if method.body is not None:
        sends.append(f"body={_body_of(method.body)}")
    if method.keyed:
        sends.append("keyed=True")
    answer, result = method.answer, method.answer
    if method.waits:
        sends.append("wait=wait")
        plain = [*optional]
        for wait, given in (("Literal[True] = True", answer), ("Literal[False]", "Operation")):
            yield "    @overload"
            yield _signature(method.name, arguments, [*plain, f"wait: {wait}"], given) + " ..."
        optional.append("wait: bool = True")
        result = " | ".join(sorted([answer, "Operation"], key=lambda kind: kind == "None"))
    yield _signature(method.name, arguments, optional, result)
    yield textwrap.indent(f'"""{method.doc}"""', " " * 8)
    call = f'self._ask("{answer}", "{method.verb}", {", ".join(sends)})'
    if method.answer == "None" and not method.waits:
        yield f"        {call}\n"
    else:
        hint = f"answer: {result} = {call}"
        yield f"        {hint}\n        return answer\n"


def _paged(
    method: Method, arguments: list[str], optional: list[str], path: str, members: str
) -> Iterator[str]:
    one = method.answer.removeprefix("list[").removesuffix("]")
    names = [argument.partition(":")[0] for argument in [*arguments[1:], *optional]]
    same = ", ".join(f"{name}={name}" for name in names)
    yield _signature(method.name, arguments, optional, method.answer)
    yield textwrap.indent(f'"""{method.doc}"""', " " * 8)
    yield f"        return list(self.iter_{method.name}({same}))\n"
    yield _signature(f"iter_{method.name}", arguments, optional, f"Iterator[{one}]")
    yield '        """The same one by one, asked for page by page."""'
    yield f'        return self._pages("{one}", {path}, {{{members}}})\n'


def _signature(name: str, arguments: list[str], optional: list[str], answer: str) -> str:
    inner = ", ".join([*arguments, *(["*", *optional] if optional else [])])
    return f"    def {name}({inner}) -> {answer}:"


def _body_of(values: list[Value]) -> str:
    always = [f'"{v.name}": {v.sent}' for v in values if not v.left_out]
    perhaps = [f"{v.name}={v.sent}" for v in values if v.left_out]
    if perhaps:
        always.append(f"**given({', '.join(perhaps)})")
        if len(always) == 1:
            return always[0].removeprefix("**")
    return f"{{{', '.join(always)}}}"


def class_of(tag: str) -> str:
    """The class with a tag's methods; a record may have the bare name."""
    return f"{tag.capitalize()}Api"


def modules(text: str) -> dict[str, str]:
    """The text of each module of the package, by its file's name."""
    description = Description(text)
    methods = description.methods()
    tags = sorted({method.tag for method in methods})
    made = {"__init__.py": _laid_out(_package(description, methods, tags))}
    for tag in tags:
        mine = [method for method in methods if method.tag == tag]
        made[f"{tag}.py"] = _laid_out(_module(description, tag, mine))
    return made


def _module(description: Description, tag: str, methods: list[Method]) -> str:
    body = "\n".join(line for method in methods for line in rendered(method))
    lines = [f'"""The API\'s {tag}. {MADE}"""', "", "from __future__ import annotations", ""]
    typing = [word for word in ("Any", "Literal", "overload") if f"{word}" in body]
    if any(method.paged for method in methods):
        lines.append("from collections.abc import Iterator")
    records = {name for method in methods for name in method.records if name in body}
    lines.append(f"from typing import {', '.join(['TYPE_CHECKING'] * bool(records) + typing)}")
    if "check." in body:
        lines.append("from copper.client import check")
    lines.append("from copper.client.caller import Caller" + ", given" * ("given(" in body))
    if records:
        lines += ["", "if TYPE_CHECKING:"]
        for module in sorted({description.modules[name] for name in records}):
            names = sorted(name for name in records if description.modules[name] == module)
            lines.append(f"    from {module} import {', '.join(names)}")
    lines += ["", "", f"class {class_of(tag)}(Caller):"]
    lines += [
        f'    """What can be asked about {tag}. Every call may raise CopperError."""',
        "",
        body,
    ]
    return "\n".join(line for line in lines if line != "from typing import ")


def _package(description: Description, methods: list[Method], tags: list[str]) -> str:
    records = {name for method in methods for name in method.answers}
    table = {name: description.modules[name] for name in sorted(records)}
    imports = "\n".join(f"from copper.client.api.{tag} import {class_of(tag)}" for tag in tags)
    bases = ", ".join(class_of(tag) for tag in tags)
    return (
        f'"""The API as typed methods. {MADE}"""\n\nfrom __future__ import annotations\n\n'
        f"from typing import ClassVar\n\n{imports}\n\n\nclass Api({bases}):\n"
        f'    """Every operation of the API."""\n\n'
        f"    records: ClassVar[dict[str, str]] = {json.dumps(table)}\n"
    )


def _laid_out(source: str) -> str:
    for how in (["format", "--quiet"], ["check", "--fix", "--quiet", "--select", "I"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *how, "--stdin-filename", str(PACKAGE / "x.py"), "-"],
            input=source,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=True,
        )
        source = done.stdout
    return source


def main() -> None:
    """Writes the package anew."""
    made = modules(OPENAPI.read_text())
    PACKAGE.mkdir(exist_ok=True)
    for old in PACKAGE.glob("*.py"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (PACKAGE / name).write_text(text)


if __name__ == "__main__":
    main()
