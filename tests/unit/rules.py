"""Reads the project's own files for the tests of its rules: what they are, import and call."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]


@cache
def project_files() -> list[Path]:
    """All files that git tracks or would, as relative paths; build results are left out."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = sorted({Path(name) for name in listing.split("\0") if name})
    return [path for path in paths if (ROOT / path).is_file()]  # a deleted file is still listed


def files(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    """The project's files in one of the folders (anywhere, if none) with one of the suffixes."""
    return [
        path
        for path in project_files()
        if path.suffix in suffixes and (not folders or path.parts[0] in folders)
    ]


def text_of(path: Path) -> str:
    """A file's text, or nothing if it is not text."""
    data = (ROOT / path).read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


@cache
def shell_scripts() -> list[Path]:
    """Every file that a shell runs or sources, by its first line."""
    return [
        path
        for path in project_files()
        if path.suffix in ("", ".sh")
        and text_of(path).startswith(
            ("#!/usr/bin/env bash", "#!/bin/bash", "#!/bin/sh", "# shellcheck shell=")
        )
    ]


def module_of(path: Path) -> str:
    """`src/copper/vmm/qmp.py` is `copper.vmm.qmp`; a package is its folder."""
    parts = path.with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Import:
    """One module that a file imports, and when: at its own import, in a function, or for types."""

    name: str
    line: int
    when: Literal["module", "function", "types"]


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """All imports of a source text; `from a import b` gives `a.b`, since b may be a module."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    return list(_imports(ast.parse(source), package, "module"))


def _imports(
    node: ast.AST, package: list[str], when: Literal["module", "function", "types"]
) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, when)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        name = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            yield Import(f"{name}.{alias.name}", node.lineno, when)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        for statement in node.body:
            yield from _imports(statement, package, "types")
        for statement in node.orelse:
            yield from _imports(statement, package, when)
    else:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "function"
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, package, when)


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is this package or something in it."""
    return name == package or name.startswith(package + ".")


def sleeps_of(source: str) -> list[int]:
    """The lines that call time.sleep, by whatever name it was imported."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
        if alias.name == "sleep"
    }
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "time"
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id in names)
            or (
                isinstance(node.func, ast.Attribute)
                and node.func.attr == "sleep"
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in modules
            )
        )
    ]


# of `os`, what only looks at this process; of paths, what touches the file system
OS_WITHOUT_IO = {"PathLike", "environ", "fspath", "path", "sep"}
PATH_WITH_IO = {
    *("chmod", "exists", "glob", "is_dir", "is_file", "iterdir", "lstat", "mkdir", "open"),
    *("read_bytes", "read_text", "rename", "rglob", "rmdir", "stat", "symlink_to", "touch"),
    *("unlink", "write_bytes", "write_text"),
}


def file_access_in(source: str) -> list[str]:
    """Where a text calls `open` or a method that touches files, or uses such parts of `os`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name not in OS_WITHOUT_IO:
                found.add((node.lineno, name))
            case ast.Call(func=ast.Name(id="open")):
                found.add((node.lineno, "open"))
            case ast.Call(func=ast.Attribute(attr=name)) if name in PATH_WITH_IO:
                found.add((node.lineno, name))
    return [f"line {line}: {name}" for line, name in sorted(found)]
