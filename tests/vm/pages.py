"""Reads the examples of a page of documentation, and what the page says that one sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# fences that hold commands: `sh` is a script, `console` has prompts and what is printed
SHELL = {"": "sh", "sh": "sh", "bash": "sh", "console": "console"}
_MARK = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Example:
    """One block of commands. `not_run`: the reason that a comment before it gives."""

    line: int
    kind: Literal["sh", "console"]
    text: str
    not_run: str = ""


@dataclass(frozen=True)
class Command:
    """A command at a prompt, and the output below it."""

    text: str
    output: str


def examples_of(page: str) -> list[Example]:
    """The blocks of commands in a Markdown text: fenced ones, and those indented by four."""
    found: list[Example] = []
    lines = page.splitlines()
    at, reason = 0, ""
    while at < len(lines):
        start = at
        if fence := re.match(r"( *)(```+)(\w*) *$", lines[at]):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == fence[2])
            body = [line.removeprefix(fence[1]) for line in lines[at + 1 : end]]
            at, kind = end + 1, SHELL.get(fence[3], "")
        elif _is_indented(lines[at]) and (at == 0 or not lines[at - 1].strip()):
            while at < len(lines) and (_is_indented(lines[at]) or not lines[at].strip()):
                at += 1
            body, kind = [line[4:] for line in lines[start:at]], "sh"
        else:
            mark = _MARK.fullmatch(lines[at].strip())
            reason = mark[1] if mark else reason if not lines[at].strip() else ""
            at += 1
            continue
        if kind:
            text = "\n".join(body).rstrip() + "\n"
            found.append(Example(start + 1, "console" if kind == "console" else "sh", text, reason))
        reason = ""
    return found


def _is_indented(line: str) -> bool:
    return line.startswith("    ") and bool(line.strip())


def commands_of(console: str) -> list[Command]:
    """A `console` block's commands: `$ ` begins one, `> ` goes on with it, the rest was printed."""
    commands: list[tuple[list[str], list[str]]] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            commands.append(([line[2:]], []))
        elif line.startswith("> ") and commands and not commands[-1][1]:
            commands[-1][0].append(line[2:])
        else:
            assert commands, f"no prompt before {line!r}"
            commands[-1][1].append(line)
    return [Command("\n".join(typed), "\n".join(seen)) for typed, seen in commands]


def is_what_the_page_shows(shown: str, printed: str) -> bool:
    """Whether an output is the one in the page, where `…` stands for what varies: within a line
    anything, alone any lines or none. How far columns are apart does not matter."""
    pattern = ""
    for line in _lines(shown):
        if line == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("…")) + r"\n"
    return bool(re.fullmatch(pattern, "".join(line + "\n" for line in _lines(printed))))


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().split("\n") if line.strip()]
