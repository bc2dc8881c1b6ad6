"""Rules that every file of the project keeps: its size, its words, its links, its list of needs."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import copper
from tests.unit.rules import ROOT, files, project_files, shell_scripts, sleeps_of, text_of

LONGEST = 400  # lines; before that, look for the two things in it
# path: why nothing can be waited for there
SLEEPERS = {"src/copper/image/build/apt.py": "a mirror does not say when it answers again"}


def says_what_it_is(path: Path, text: str) -> bool:
    """Whether a source file begins by saying what it is for, in its language's way."""
    if path.suffix == ".py":
        return bool((ast.get_docstring(ast.parse(text)) or "").strip())
    if path.suffix in (".c", ".h"):
        return text.lstrip().startswith(("/*", "//"))
    return bool(re.match(r"#[^\n]*\n# *\w", text))


def test_every_module_says_what_it_is() -> None:
    modules = files(suffixes=(".py", ".c", ".h")) + shell_scripts()
    assert modules
    assert not [str(path) for path in modules if not says_what_it_is(path, text_of(path))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", '""" """\n'),
        ("a.py", "import os\n"),
        ("a.c", "#include <stdio.h>\n"),
        ("a", "#!/usr/bin/env bash\nset -eu\n"),
    ],
)
def test_a_module_that_says_nothing_is_found(name: str, text: str) -> None:
    assert not says_what_it_is(Path(name), text)


def test_no_module_is_too_long() -> None:
    lengths = {
        str(path): text_of(path).count("\n")
        for path in files("src", "guest", "native", "tests", suffixes=(".py", ".c", ".h"))
    }
    assert lengths
    assert not {path: lines for path, lines in lengths.items() if lines > LONGEST}


def test_nothing_sleeps_where_it_could_wait() -> None:
    sleepers = {
        str(path): lines
        for path in files("src", "tests", "guest", "images")
        if (lines := sleeps_of(text_of(path)))
    }
    assert set(sleepers) == set(SLEEPERS), sleepers


def test_a_sleep_is_found_by_whatever_name() -> None:
    source = "import time as t\nfrom time import sleep as nap\nt.sleep(1)\nnap(2)\n"
    assert sleeps_of(source) == [3, 4]
    assert sleeps_of("import asyncio\nasyncio.sleep(0)\n") == []


MOCK_QUESTION = re.compile(
    r"\.assert_(?:any_|has_|not_)?(?:called|awaited|calls|awaits|call|await)"
)


def test_no_test_asks_a_mock_whether_it_was_called() -> None:
    assert MOCK_QUESTION.search("thing" + ".assert_" + "called_once()")
    assert not [str(path) for path in files("tests") if MOCK_QUESTION.search(text_of(path))]


# Where this was written, and whose mirror it used, is nobody else's. Put together here so that
# this file does not contain them.
PRIVATE = [
    re.compile(r"(?<![\w.~-])/" + "work" + "/"),
    *(
        re.compile(r"\b" + r"\.".join(host))
        for host in (
            ("deb", "debian", "org"),
            ("security", "debian", "org"),
            ("snapshot", "debian", "org"),
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("registry", "npmjs", "org"),
            ("proxy", "golang", "org"),
            ("crates", "io"),
            ("repo1", "maven", "org"),
        )
    ),
]


def private_in(text: str) -> list[str]:
    return [found.group() for pattern in PRIVATE for found in pattern.finditer(text)]


def test_no_file_names_the_machine_or_the_mirror_it_came_from() -> None:
    found = {str(path): words for path in project_files() if (words := private_in(text_of(path)))}
    assert not found


def test_a_private_name_is_found() -> None:
    assert private_in("URL " + "https://" + "deb." + "debian.org/debian")
    assert private_in("cd /" + "work/main")
    assert not private_in("see ./work/main and https://www.debian.org")


def test_shell_scripts_are_sound() -> None:
    scripts = shell_scripts()
    assert Path("scripts/test") in scripts
    for path in scripts:
        subprocess.run(["bash", "-n", ROOT / path], check=True)
    done = subprocess.run(
        ["shellcheck", "--external-sources", "--severity=warning", "--format=gcc", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_script_is_a_shell_script_that_can_be_run() -> None:
    scripts = [path for path in project_files() if path.parts[0] in ("scripts", ".ci")]
    runnable = [path for path in scripts if path.suffix == ""]
    assert Path(".ci/run") in runnable
    assert not [str(path) for path in runnable if path not in shell_scripts()]
    assert not [str(path) for path in runnable if not (ROOT / path).stat().st_mode & 0o100]
    assert not [
        str(path)
        for path in [*runnable, Path("scripts/setup.sh")]
        if "set -euo pipefail" not in text_of(path)
        and "setup.sh" not in text_of(path)
        # .ci/run does nothing but become scripts/test
        and path != Path(".ci/run")
    ]


def dependencies_without_reason(pyproject: str) -> list[str]:
    """The requirements of a pyproject.toml that have no comment behind them."""
    return [
        line.strip()
        for line in pyproject.splitlines()
        if re.match(r'\s+"[\w.\[\]-]+ *[<>=!~]', line) and not re.search(r'", +# \w', line)
    ]


def test_every_dependency_has_its_reason() -> None:
    pyproject = text_of(Path("pyproject.toml"))
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    reasons = re.findall(r'^\s+"([^"]+)", +# \w', pyproject, re.MULTILINE)
    assert sorted(reasons) == sorted(wanted)
    assert not dependencies_without_reason(pyproject)
    assert dependencies_without_reason('    "rich>=13",\n') == ['"rich>=13",']


def test_every_debian_package_has_its_reason_and_is_listed_once() -> None:
    lines = [
        line.split(maxsplit=1)
        for line in text_of(Path("scripts/packages.txt")).splitlines()
        if line and line[0] not in "#["
    ]
    names = [line[0] for line in lines]
    assert "qemu-system-x86" in names
    assert not [line for line in lines if len(line) < 2]
    assert len(names) == len(set(names))


def test_the_lock_pins_all_that_pyproject_wants() -> None:
    project = tomllib.loads(text_of(Path("pyproject.toml")))
    wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
    wanted += project["project"]["optional-dependencies"]["test"]
    locked = dict(
        re.findall(r"^([\w.-]+)==(\S+)", text_of(Path("requirements.lock")), re.MULTILINE)
    )
    names = [re.split(r"[<>=!~\[ ]", want)[0].lower().replace(".", "-") for want in wanted]
    assert not [name for name in names if name not in locked], "run scripts/lock"


def test_the_version_is_one() -> None:
    project = tomllib.loads(text_of(Path("pyproject.toml")))["project"]
    assert project["version"] == copper.__version__


def broken_links(path: Path, text: str, root: Path = ROOT) -> list[str]:
    """The links of a Markdown text to files, or headings in them, that do not exist."""
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?\)", without_code(text)):
        name, _, heading = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = (root / path.parent / name).resolve() if name else root / path
        if not linked.exists() or (heading and heading not in headings(linked)):
            broken.append(f"{path}: {target}")
    return broken


def without_code(text: str) -> str:
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def headings(path: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as forges make them."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_between_documents_lead_somewhere() -> None:
    documents = files(suffixes=(".md",))
    assert documents
    assert not [link for path in documents for link in broken_links(path, text_of(path))]


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `title`, here\n")
    text = "[a](there.md) [b](there.md#a-title-here) [c](https://x.org) `[d](not.md)`"
    assert broken_links(Path("x.md"), text, tmp_path) == []
    assert broken_links(Path("x.md"), "[a](not.md)", tmp_path) == ["x.md: not.md"]
    assert broken_links(Path("x.md"), "[a](there.md#no)", tmp_path) == ["x.md: there.md#no"]
