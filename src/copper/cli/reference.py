"""Writes docs/reference/cli.md from the commands themselves: `python -m copper.cli.reference`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from copper.cli import copper, gc_host, gc_vc, gc_vm

HEAD = """\
# Commands

Made by `python -m copper.cli.reference > docs/reference/cli.md`; the commands' own `--help` says the same.

They speak to the Copper of this machine, whose [settings](settings.md) their environment names, or to another one:
`COPPER_URL=https://HOST:PORT` says where, `COPPER_TOKEN` who asks, and `COPPER_CA=FILE` which authority made its
certificate ([how](../how-to/users.md)). `copper up`, `down`, `doctor`, `image build` and `import`, `demo` and `bench`
are about this machine, whatever these say.

Results go to standard output and everything else to standard error. An error is one line,
`gc-vm: what is wrong (what to do)`; `COPPER_DEBUG=1` shows a traceback with it.

| exit status | |
| --- | --- |
| 0 | done |
| 1 | failed, or Copper does not run here |
| 2 | wrong usage: nothing was asked of Copper |
| 3 | not found |
| 4 | refused: not allowed, no room, or an image that is damaged or foreign |
| 5 | contradicts the current state; `copper audit`: there are differences |
| 6 | timed out |
| 7 | partly done: standard error names what was not; `copper audit --repair`: differences are left |
| 130, 141 | ended by Ctrl-C; whoever read the output went away |

`gc-vm exec` gives the exit status of the command that it ran.

`--no-wait` prints the id of an operation at once: `copper operation` shows, waits for and cancels it. A command that
was cut off asks again by itself, and what it asked for is done once.

Every listing takes `--format`: `table` for people, `json` for the [API](api.md)'s own body, `csv` with a line
of field names first, `name` for the names alone. JSON is stable; the table is not.
"""


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for group in (gc_vc.group, gc_vm.group, gc_host.group, copper.group):
        parts += _section(group, str(group.name))
    return "\n".join(parts)


def _section(command: click.Command, path: str) -> Iterator[str]:
    """A group's heading and its verbs', or a verb's own."""
    if isinstance(command, click.Group):
        yield f"{'#' * (1 + len(path.split()))} {path}\n\n{_prose(command)}\n"
        for name, verb in command.commands.items():
            yield from _section(verb, f"{path} {name}")
        return
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    yield f"### {path}\n\n```\n{usage}\n```\n\n{_prose(command)}\n"
    options = [
        record
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and (record := parameter.get_help_record(context)) is not None
    ]
    if options:
        rows = "\n".join(f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in options)
        yield f"| option | |\n| --- | --- |\n{rows}\n"


def _cell(meaning: str) -> str:
    return meaning.replace("|", "\\|")


def _prose(command: click.Command) -> str:
    """A help text as Markdown: what it keeps in its lines becomes a block of code."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    shown = []
    for paragraph in paragraphs:
        if paragraph.startswith("\b"):
            shown.append(f"```\n{paragraph.lstrip(chr(8)).strip(chr(10))}\n```")
        else:
            # a word in angle brackets would be taken for markup
            shown.append(re.sub(r"(< ?/dev/null)", r"`\1`", paragraph))
    return "\n\n".join(shown)


if __name__ == "__main__":
    print(text(), end="")
