"""Recipes really build, and what comes out boots cold to a running agent and a root console."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from copper.image.build import Built, build, load
from copper.image.build.progress import Silent
from copper.model.errors import BadInput, CopperError
from copper.model.settings import from_environment
from tests.vm.machinery import images_folder

ROOT = Path(__file__).resolve().parents[2]

BOOT_S = 600.0  # a cold boot by emulation on a busy machine; usually 3 s (micro) to 12 s
ANSWER_S = 300.0


@dataclass
class Guest:
    """A machine that boots, and its serial line."""

    process: subprocess.Popen[bytes]
    seen: bytearray = field(default_factory=bytearray)

    def read_until(self, marker: bytes, seconds: float) -> str:
        """What the serial line said up to a marker. Fails at the deadline with what was said."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while marker not in self.seen:
            left = end - time.monotonic()
            assert left > 0, (
                f"no {marker!r} within {seconds:g} s: {self.seen.decode('utf-8', 'replace')}"
            )
            if select.select([self.process.stdout], [], [], left)[0]:
                piece = os.read(self.process.stdout.fileno(), 65536)
                assert piece, f"QEMU ended: {self.seen.decode('utf-8', 'replace')}"
                self.seen += piece
        said, _, rest = bytes(self.seen).partition(marker)
        self.seen[:] = rest
        return said.decode("utf-8", "replace").replace("\r", "")

    def sh(self, command: str) -> str:
        """A command's output in the console's shell, which must succeed."""
        assert self.process.stdin is not None
        # the echo of what is typed must not look like the markers
        line = f"echo BEG''IN; {{ {command}; }} 2>&1; echo EN''D:$?:\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        self.read_until(b"BEGIN", ANSWER_S)
        said = self.read_until(b"END:", ANSWER_S)
        assert self.read_until(b":", ANSWER_S) == "0", f"{command}: {said}"
        return said.strip()


@contextlib.contextmanager
def booted(built: Built, overlay: Path, memory_mib: int) -> Iterator[Guest]:
    """A guest from its first instruction; its process is gone when the block is left."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", built.disk, overlay],
        check=True,
        timeout=300,
    )
    argv: list[str | Path] = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", str(memory_mib), "-no-reboot"),
        *("-kernel", built.kernel, "-initrd", built.initrd, "-append", built.cmdline),
        *("-drive", f"file={overlay},format=qcow2,if=virtio", "-serial", "stdio"),
        *("-device", "virtio-serial-pci", "-chardev", "null,id=port"),
        *("-device", "virtserialport,chardev=port,name=org.copper.agent"),
    ]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            yield Guest(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def agent() -> Path:
    """The guest's program, built where setup builds it, so that images are shared."""
    out = ROOT / "build/guest"
    subprocess.run([ROOT / "guest/build", out], check=True, timeout=600, capture_output=True)
    return out / "gridcentric"


@pytest.fixture(scope="module")
def cache() -> Path:
    """The cache that all tests with real machines share."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder())}).cache_dir


@pytest.fixture(scope="module")
def micro_built(agent: Path, cache: Path) -> Built:
    return build(load("micro"), agent=agent, cache=cache)


def test_micro_boots_to_its_agent_and_console(micro_built: Built, tmp_path: Path) -> None:
    with booted(micro_built, tmp_path / "disk.qcow2", 128) as guest:
        guest.read_until(b"root@micro:~# ", BOOT_S)
        assert guest.sh("pidof gridcentric-agent")
        assert guest.sh("gc --version").startswith("gc ")
        assert guest.sh("cat /sys/class/virtio-ports/*/name") == "org.copper.agent"
        assert "/dev/vda / ext4 rw,noatime,commit=30" in guest.sh("cat /proc/mounts")
        tools = "sh dd sha256sum sync ps nc awk grep"
        assert len(guest.sh(f"which {tools}").split()) == len(tools.split())
        guest.sh("echo kept >/root/file && sync && grep -q kept /root/file")
        guest.sh('for d in /run /tmp /dev/pts /dev/shm; do grep -q " $d " /proc/mounts; done')
        assert "taint" not in guest.sh("dmesg | grep -ci -e 'call trace' -e oops || true")


def test_debian_boots_with_its_services(agent: Path, cache: Path, tmp_path: Path) -> None:
    built = build(load("debian-12"), agent=agent, cache=cache)
    assert built.packages["memcached"] and built.disk_bytes == 2048 << 20
    with booted(built, tmp_path / "disk.qcow2", 512) as guest:
        guest.read_until(b"root@debian:~# ", BOOT_S)
        guest.sh("systemctl is-system-running --wait")
        guest.sh("systemctl is-active gridcentric-agent memcached ssh")
        memcached = "exec 3<>/dev/tcp/127.0.0.1/11211 && printf 'version\\r\\n' >&3"
        assert guest.sh(f"{memcached} && head -n 1 <&3").startswith("VERSION")
        timers = guest.sh("systemctl --no-pager --no-legend list-timers")
        assert timers == "", "an idle guest has no timers"
        guest.sh('test -z "$(swapon --show)" && ls -d /etc/gridcentric/*.d')
        assert guest.sh("hostname") == "debian"
        assert "host" not in guest.sh("ls /etc/resolv.conf 2>&1 || true").split()


def test_the_same_inputs_are_built_once(micro_built: Built, agent: Path, cache: Path) -> None:
    before = micro_built.disk.stat()
    again = build(load("micro"), agent=agent, cache=cache)
    assert again == micro_built
    assert again.disk.stat().st_ino == before.st_ino


def test_another_disk_size_is_another_image(agent: Path, cache: Path, micro_built: Built) -> None:
    larger = build(load("micro"), agent=agent, cache=cache, disk_mib=512)
    assert larger.digest != micro_built.digest
    assert larger.disk_bytes == 512 << 20


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("packages", "says"),
    [
        (["no-such-package-at-all"], "has no package no-such-package-at-all"),
        (["sysvinit-core"], "cannot be installed together"),
    ],
)
def test_packages_that_cannot_be_had_change_nothing(
    packages: list[str], says: str, agent: Path, cache: Path, micro_built: Built
) -> None:
    before = listing(micro_built.disk.parent.parent)
    with pytest.raises(BadInput, match=says):
        build(load("debian-12"), agent=agent, cache=cache, packages=packages)
    assert listing(micro_built.disk.parent.parent) == before


class _Cut(Silent):
    """Breaks a build off as a step begins, the way Ctrl-C would."""

    def __init__(self, name: str) -> None:
        self._name = name

    def step(self, name: str) -> contextlib.AbstractContextManager[None]:
        if name == self._name:
            raise KeyboardInterrupt
        return super().step(name)


def test_a_build_that_is_interrupted_leaves_no_image(
    agent: Path, cache: Path, micro_built: Built
) -> None:
    images = micro_built.disk.parent.parent
    before = listing(images)
    with pytest.raises(KeyboardInterrupt):
        build(
            load("micro"),
            agent=agent,
            cache=cache,
            disk_mib=300,
            progress=_Cut("writing the disk"),
        )
    assert listing(images) == before


def test_a_recipe_that_fails_half_way_says_where_and_leaves_no_image(
    agent: Path, cache: Path, micro_built: Built, tmp_path: Path
) -> None:
    recipes = shutil.copytree(ROOT / "images", tmp_path / "images")
    hook = recipes / "micro/hooks/90-breaks"
    hook.write_text("#!/bin/sh\necho half way >&2\nexit 7\n")
    hook.chmod(0o755)
    before = listing(micro_built.disk.parent.parent)
    with pytest.raises(CopperError) as caught:
        build(load("micro", recipes), agent=agent, cache=cache)
    assert caught.value.message == (
        "building micro, installing 1 packages: 90-breaks failed (status 7): half way"
    )
    assert listing(micro_built.disk.parent.parent) == before
