"""What guest/package builds, and that each language's program of five lines runs with it."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bindings import agent, python
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, TICKET, ended
from tests.unit.rules import ROOT

GUEST = ROOT / "guest"


def build(folder: Path) -> list[Path]:
    subprocess.run([GUEST / "package", folder], check=True)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="copper-packages-") as folder:
        build(Path(folder))
        yield Path(folder)


@pytest.fixture(scope="module")
def root(packages: Path) -> Path:
    """A guest's root directory with nothing but the Debian package in it."""
    (deb,) = packages.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", deb, packages / "root"], check=True)
    return packages / "root"


def libraries(root: Path) -> Path:
    (found,) = root.glob("usr/lib/*/libgridcentric.a")
    return found.parent


def test_the_same_sources_give_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    names = [path.name for path in build(tmp_path)]
    assert [re.sub(r"\d+\.\d+\.\d+", "V", name) for name in names] == [
        "gridcentric-V-py3-none-any.whl",
        "gridcentric-V.tgz",
        "gridcentric-guest_V_amd64.deb",
        "gridcentric.jar",
    ]
    for name in names:
        assert (tmp_path / name).read_bytes() == (packages / name).read_bytes(), name
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    build(tmp_path)  # nothing to do
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_the_debian_package_has_all_where_programs_look(root: Path) -> None:
    for name in (
        "usr/bin/gridcentric",
        "usr/sbin/gridcentric-agent",
        "usr/local/bin/gc",
        "usr/include/gridcentric/gc-guest.h",
        "usr/share/gridcentric/gridcentric.jar",
        "usr/share/man/man3/gc_clone.3.gz",
        "usr/local/share/man/man1/gc.1.gz",
        "usr/lib/systemd/system/gridcentric-agent.service",
        "usr/lib/python3/dist-packages/gridcentric/guest.py",
        "usr/share/nodejs/gridcentric/package.json",
        "etc/gridcentric/pre-clone.d",
    ):
        assert (root / name).exists(), name
    assert not [path for path in root.rglob("*") if not path.exists()]  # broken links
    said = subprocess.run([root / "usr/local/bin/gc", "--version"], capture_output=True, text=True)
    assert said.stdout.startswith("gc ")


def test_the_debian_package_has_no_file_of_graphviz(root: Path) -> None:
    for name in ("usr/bin/gc", "usr/share/man/man1/gc.1.gz"):
        assert not (root / name).is_symlink()
        assert not (root / name).exists()


def test_the_wheel_is_one_that_pip_installs(packages: Path, tmp_path: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--disable-pip-version-check", "-t", tmp_path, wheel], check=True)
    code = "import gridcentric.guest; from gridcentric import guest as gc; print(gc.__file__)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert said.stdout.startswith(str(tmp_path)), said.stderr
    assert "gridcentric/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_npm_tarball_is_a_package_with_types(packages: Path, tmp_path: Path) -> None:
    (tarball,) = packages.glob("*.tgz")
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path)  # our own; older Pythons have no filters
    described = json.loads((tmp_path / "package/package.json").read_text())
    assert tarball.name == f"gridcentric-{described['version']}.tgz"
    assert {"README.md", described["main"], described["types"]} <= {
        path.name for path in (tmp_path / "package").iterdir()
    }


def exported(library: Path) -> set[str]:
    said = subprocess.run(
        ["nm", "--defined-only", "-g", *(["-D"] if ".so" in library.name else []), library],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"^[0-9a-f]+ [A-Z] (\w+)", said.stdout, re.MULTILINE))


@cache
def declared() -> set[str]:
    header = (GUEST / "lib/include/gridcentric/gc-guest.h").read_text()
    return set(re.findall(r"^(?:int|const char \*) ?(gc_\w+)\(", header, re.MULTILINE))


def test_the_c_library_exports_its_header_and_nothing_else(root: Path) -> None:
    assert len(declared()) > 15
    for name in ("libgridcentric.a", "libgridcentric.so"):
        assert exported(libraries(root) / name) == declared(), name


def test_every_c_call_has_a_page(root: Path) -> None:
    pages = {path.name.removesuffix(".3.gz"): path for path in root.glob("usr/share/man/man3/*")}
    assert set(pages) == declared()
    for name, page in pages.items():
        assert f"{name}(" in gzip.decompress(page.read_bytes()).decode()


@pytest.mark.parametrize("page", sorted((GUEST / "lib/man").iterdir()), ids=lambda page: page.name)
def test_a_page_formats_without_a_warning(page: Path) -> None:
    said = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", page], capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "")


def test_the_page_of_gc_has_every_verb(root: Path) -> None:
    page = (GUEST / "lib/man/gc.1").read_text().replace("\\-", "-")
    said = subprocess.run([root / "usr/local/bin/gc", "help"], capture_output=True, text=True)
    verbs = set(re.findall(r"^  ([a-z-]+)(?: |$)", said.stdout, re.MULTILINE)) - {"help"}
    assert len(verbs) > 10
    assert not {verb for verb in verbs if not re.search(rf"^\.[A-Z]+ \"?{verb}\b", page, re.M)}


@pytest.mark.parametrize("standard", ["c11", "c++17"])
def test_the_header_is_c_and_cplusplus(standard: str) -> None:
    language = "c++" if "++" in standard else "c"
    flags = [f"-std={standard}", "-x", language, "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    header = GUEST / "lib/include/gridcentric/gc-guest.h"
    if language == "c++" and subprocess.run(["which", "c++"], capture_output=True).returncode:
        pytest.skip("no C++ compiler here")
    subprocess.run(["cc", *flags, "-fsyntax-only", "-include", header, "/dev/null"], check=True)


def calls_of(module: str) -> dict[str, inspect.Signature]:
    found = importlib.import_module(module)
    functions = inspect.getmembers(found, inspect.isfunction)
    return {name: inspect.signature(call) for name, call in functions if not name.startswith("_")}


def test_pythons_twins_have_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(GUEST / "python")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    calls = calls_of("gridcentric.guest")
    assert calls == calls_of("gridcentric.aio")
    assert {f"gc_{name}" for name in calls} == declared() - {
        *("gc_clone_count", "gc_sync_clone", "gc_error", "gc_ticket_status_string")
    }


def test_the_python_sources_are_typed_and_of_python_3_7() -> None:
    tool = [sys.executable, "-m"]
    strict = ["mypy", "--strict", "--no-incremental", "--config-file="]
    sources = ["gridcentric", "wheel.py", "test/driver.py"]
    for command in ([*strict, *sources], ["ruff", "check", "--no-cache", *sources]):
        said = subprocess.run(
            [*tool, *command],
            cwd=GUEST / "python",
            capture_output=True,
            text=True,
            env={**os.environ, "MYPYPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert said.returncode == 0, said.stdout + said.stderr


def test_the_types_of_node_name_what_there_is() -> None:
    typed = set(re.findall(r"^export (?:function|class) (\w+)", node_types(), re.MULTILINE))
    code = "console.log(Object.keys(require(process.argv[1])).join(' '))"
    said = subprocess.run(
        ["node", "-e", code, GUEST / "node"], capture_output=True, text=True, check=True
    )
    assert typed == set(said.stdout.split())


def node_types() -> str:
    return (GUEST / "node/index.d.ts").read_text()


def first_program(readme: Path) -> str:
    """The first indented block of a README."""
    found = re.search(r"^(?: {4}.*\n|\n(?= {4}))+", readme.read_text(), re.MULTILINE)
    assert found
    return re.sub(r"^ {4}", "", found.group(), flags=re.MULTILINE)


def forked_in(language: str, root: Path, folder: Path) -> list[str]:
    """The command that runs a README's program, as a guest with the Debian package would."""
    source = first_program(GUEST / {"c": "lib"}.get(language, language) / "README.md")
    jar = root / "usr/share/gridcentric/gridcentric.jar"
    if language == "python":
        (folder / "fork.py").write_text(source)
        modules = root / "usr/lib/python3/dist-packages"
        return ["env", f"PYTHONPATH={modules}", "PYTHONDONTWRITEBYTECODE=1", python(), "fork.py"]
    if language == "node":
        (folder / "fork.js").write_text(source)
        return ["env", f"NODE_PATH={root / 'usr/share/nodejs'}", "node", "fork.js"]
    if language == "java":
        method = f"public static void main(String[] args) {{\n{source}}}"
        source = f"import ca.gridcentric.guest.API;\npublic class Fork {{\n{method}\n}}\n"
        (folder / "Fork.java").write_text(source)
        return ["java", "-cp", str(jar), "Fork.java"]
    (folder / "fork.c").write_text(source)
    env = {**os.environ, "PKG_CONFIG_LIBDIR": str(libraries(root) / "pkgconfig")}
    env["PKG_CONFIG_SYSROOT_DIR"] = str(root)
    asked = ["pkg-config", "--cflags", "--libs", "gridcentric"]
    flags = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout
    warnings = ["-Wall", "-Wextra", "-Werror"]
    program = str(folder / "fork")
    subprocess.run(["cc", *warnings, "-o", program, f"{program}.c", *flags.split()], check=True)
    return ["env", f"LD_LIBRARY_PATH={libraries(root)}", program]


@pytest.mark.parametrize("language", ["c", "python", "java", "node"])
@pytest.mark.parametrize("vmid", [0, 5])
async def test_the_program_of_its_readme_forks(
    language: str, vmid: int, root: Path, tmp_path: Path
) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        if verb == "clone" and vmid:  # the program that waits goes on in another VM
            await port.begin({**IDENTITY, "vmid": vmid}, "clone", call, deadline=DEADLINE)
        return {"ticket": TICKET, "vmid": 0, "tickets": []}

    command = forked_in(language, root, tmp_path)
    async with agent() as guest:
        port = await guest.session(MASTER, on_call)
        program = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env={"GRIDCENTRIC_SOCKET": str(guest.socket_path), "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ran = await ended(program)
    said = f"clone {vmid}\n" if vmid else "the caller\n"
    assert (ran.status, ran.out) == (0, said), ran.err
