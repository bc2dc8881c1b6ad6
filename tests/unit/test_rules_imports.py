"""Who may import whom: the direction of the way of a clone, and commands that start quickly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.unit.rules import (
    Import,
    file_access_in,
    files,
    imports_of,
    is_within,
    module_of,
    text_of,
)


@dataclass(frozen=True)
class Rule:
    """Modules in `who`, save those in `but`, do not import what is in `what` and not in `fine`."""

    why: str
    what: tuple[str, ...]
    who: str = "copper"
    but: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    at_import_only: bool = False

    def complaints(self, module: str, imports: list[Import]) -> list[str]:
        if not is_within(module, self.who) or any(is_within(module, b) for b in self.but):
            return []
        found = {
            (i.line, i.name)
            for i in imports
            if any(is_within(i.name, w) for w in self.what)
            and not any(is_within(i.name, f) for f in self.fine)
            and not (self.at_import_only and i.when != "module")
        }
        return [
            f"{module}, line {line}: imports {name}: {self.why}" for line, name in sorted(found)
        ]


RULES = [
    Rule("what decides does not do", who="copper.controller", what=("copper.host",)),
    Rule("what does, does not decide", who="copper.host", what=("copper.controller",)),
    Rule("nothing imports the command line", but=("copper.cli",), what=("copper.cli",)),
    Rule(
        "the nouns stand on nothing",
        who="copper.model",
        what=("copper",),
        fine=("copper.model",),
    ),
    Rule(
        "the wire knows the nouns only",
        who="copper.wire",
        what=("copper",),
        fine=("copper.model", "copper.wire", "copper.__version__"),
    ),
    Rule(
        "the nouns do no I/O",
        who="copper.model",
        what=(
            *("asyncio", "fcntl", "httpx2", "io", "mmap", "qemu", "select", "shutil"),
            *("socket", "sqlite3", "subprocess", "tempfile", "threading"),
        ),
    ),
    Rule(
        "names are learnt from the API alone",
        who="copper.dns",
        what=("copper",),
        fine=("copper.client", "copper.dns", "copper.model", "copper.priority"),
    ),
    Rule(
        "the wire of DNS is spoken in one place, and measured in another",
        but=("copper.dns", "copper.bench.dns"),
        what=("dns",),
    ),
    Rule("netlink is spoken in one place", but=("copper.net",), what=("pyroute2",)),
    Rule("rich is loaded on a terminal only", what=("rich",), at_import_only=True),
]

BROKEN = {
    "what decides does not do": ("copper.controller.api", "from ..host import agent"),
    "what does, does not decide": ("copper.host.agent", "def f():\n    import copper.controller"),
    "nothing imports the command line": ("copper.vmm.qmp", "from copper import cli"),
    "the nouns stand on nothing": ("copper.model.names", "from copper.vmm import qmp"),
    "the wire knows the nouns only": ("copper.wire.frames", "import copper.store"),
    "the nouns do no I/O": ("copper.model.names", "def f():\n    from subprocess import run"),
    "names are learnt from the API alone": (
        "copper.dns.feed",
        "from copper.controller import book",
    ),
    "the wire of DNS is spoken in one place, and measured in another": (
        "copper.node.names",
        "import dns.message",
    ),
    "netlink is spoken in one place": ("copper.host.taps", "from pyroute2 import IPRoute"),
    "rich is loaded on a terminal only": ("copper.cli.gc_vm", "import rich.table"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.why)
def test_imports_keep_the_rule(rule: Rule) -> None:
    modules = {
        module_of(path): imports_of(text_of(path), module_of(path), path.name == "__init__.py")
        for path in files("src")
    }
    assert any(is_within(module, rule.who) for module in modules), "the rule is about nothing"
    assert not [c for module, found in modules.items() for c in rule.complaints(module, found)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.why)
def test_a_module_that_breaks_the_rule_is_found(rule: Rule) -> None:
    module, source = BROKEN[rule.why]
    assert rule.complaints(module, imports_of(source, module))


def test_the_nouns_touch_no_files() -> None:
    nouns = [path for path in files("src") if is_within(module_of(path), "copper.model")]
    found = {str(path): calls for path in nouns if (calls := file_access_in(text_of(path)))}
    assert nouns
    assert not found


@pytest.mark.parametrize("line", ["open('x')", "os.unlink('x')", "path.read_text()"])
def test_touching_a_file_is_found(line: str) -> None:
    assert len(file_access_in(line)) == 1
    assert not file_access_in("import os\nos.environ['A'] = os.fspath(x)\n")


def test_rich_within_a_function_or_for_types_is_fine() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rich\n"
        "def table():\n    import rich.table\n"
    )
    rule = next(rule for rule in RULES if rule.what == ("rich",))
    assert not rule.complaints("copper.cli.gc_vm", imports_of(source, "copper.cli.gc_vm"))


# What a command may not load before it knows that it needs it: each costs 30 to 400 ms.
HEAVY = (
    *("fastapi", "httpx2", "matplotlib", "numpy", "pydantic", "qemu"),
    *("sqlite3", "starlette", "uvicorn", "websockets"),
)
# Python has 34 modules, click brings 62 and asyncio 60 more; a count is steadier than a clock.
MOST_MODULES = 180

COMMANDS = [
    module_of(path)
    for path in files("src")
    if path.parts[1:3] == ("copper", "cli") and (path.stem == "copper" or path.stem[:3] == "gc_")
]


def loaded_by(module: str) -> list[str]:
    """The modules in memory after a fresh Python has imported this one."""
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_commands_to_check_are_found() -> None:
    others = [path for path in files("src") if path.parts[1:3] == ("copper", "cli")]
    assert COMMANDS or [path.name for path in others] == ["__init__.py"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts_without_the_heavy_libraries(command: str) -> None:
    loaded = loaded_by(command)
    assert command in loaded
    assert not [name for name in HEAVY if name in loaded]
    assert len(loaded) <= MOST_MODULES, sorted(loaded)


def test_the_names_of_the_heavy_libraries_are_right() -> None:
    """A misspelt name would never be found loaded; each of these can be imported here."""
    done = subprocess.run(
        [sys.executable, "-c", "import " + ", ".join(HEAVY)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
