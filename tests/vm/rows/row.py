"""One row of the table of the command `gc`: what a shell in a machine is told, and what comes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

NOBODYS = "00000000-0000-0000-0000-000000000000"
# what `out` and `err` of a row have in the places of values that vary
VARYING = {
    "<uuid>": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "<ip>": r"10(?:\.\d{1,3}){3}",
    "<bytes>": r"[1-9]\d{5,9}",
    "<host>": r"[a-z0-9-]+",
    "<more>": r".+",
    "<version>": r"\d+\.\d+\.\d+",
}
# $t is a ticket of three, as scripts cut it; `fork` clones on it, and its clones run what is given
WORDS = """
t=$(gc rt 3 3 1 20000 | awk '{print $2}')
fork() {
    me=$(gc clone $t) || exit
    [ $me = 0 ] || { eval "$*"; exec sleep 10000; }
}
"""
FORK = WORDS + "fork"
# commands that change nothing
ASK = re.compile(
    r"\bgc (?:vmid|my-ip|ismaster|lt|ltd|list\S*|known-hosts|stat|help|--version)(?![\w-])"
)


@dataclass(frozen=True)
class Row:
    """What a shell in a machine is told, and what `gc` then prints and exits with."""

    id: str
    command: str
    out: str = ""
    exit: int = 0
    err: str = ""
    setup: str = ""  # by a shell in the master, which goes on with the command
    vm: int = 0  # the vmid of the machine that the command is for; other than 0: by another shell
    left: tuple[int, ...] | None = None  # the machines that are there when the command has returned

    @property
    def asks(self) -> bool:
        """Whether nothing is changed by it: by what it asks, or since it fails at once."""
        return not re.search(r"\bgc ", ASK.sub("", self.command)) or (
            self.exit != 0 and not self.setup
        )

    def place(self) -> tuple[bool, str]:
        """Those that share machines come one after the other."""
        return not self.asks, self.setup if self.asks else ""


def no_such(verb: str) -> str:
    return f"gc: {verb}: there is no ticket '{NOBODYS}'\n"


def usage(text: str) -> str:
    return f"gc: {text.split()[0]}: expected: gc {text}\n"


def pattern(text: str) -> str:
    """A regular expression for a row's text."""
    parts = re.split(f"({'|'.join(VARYING)}|\\[12\\])", text)
    return "".join(VARYING.get(part, part if part == "[12]" else re.escape(part)) for part in parts)
