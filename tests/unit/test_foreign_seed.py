"""What a foreign guest's cloud-init is given: one script that carries all files in itself."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from copper.image.foreign import seed

TOKEN = "0123456789abcdef"


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "gridcentric"
    path.write_bytes(b"\x7fELF" + bytes(range(256)) * 50)
    path.chmod(0o755)
    return path


def unpacked(tmp_path: Path, agent: Path) -> Path:
    """What the script's own payload unpacks, by the shell and the programs that a guest has."""
    text = seed.user_data(agent, TOKEN)
    carried = text[: text.index("line=/dev/console")]
    root = tmp_path / "root"
    root.mkdir()
    script = f'{carried}\n[ "$TOKEN" = {TOKEN} ] && payload | tar -xzf - -C {root}'
    subprocess.run(["busybox", "sh", "-eu", "-c", script], check=True)
    return root


def test_the_script_carries_the_agent_and_all_that_starts_it(tmp_path: Path, agent: Path) -> None:
    root = unpacked(tmp_path, agent)
    program = root / "usr/lib/gridcentric/gridcentric"
    assert program.read_bytes() == agent.read_bytes()
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    for name in ("usr/sbin/gridcentric-agent", "usr/local/bin/gc", "usr/local/bin/gridcentric"):
        assert (root / name).readlink() == Path("/usr/lib/gridcentric/gridcentric")
    unit = (root / "etc/systemd/system/gridcentric-agent.service").read_text()
    assert "ExecStart=/usr/sbin/gridcentric-agent" in unit
    assert stat.S_IMODE((root / "usr/lib/gridcentric/openrc").stat().st_mode) == 0o755
    hooks = {path.name for path in (root / "etc/gridcentric").glob("*.d")}
    assert hooks == {
        "pre-clone.d",
        "post-clone.d",
        "post-clone-on-clone.d",
        "post-clone-on-master.d",
    }


def test_a_seed_is_what_nocloud_looks_for(tmp_path: Path, agent: Path) -> None:
    folder = tmp_path / "seed"
    folder.mkdir()
    seed.write(folder, agent, TOKEN, "web")
    assert {path.name for path in folder.iterdir()} == {"meta-data", "user-data", "network-config"}
    assert f"instance-id: copper-{TOKEN}\n" in (folder / "meta-data").read_text()
    assert (folder / "network-config").read_text() == "config: disabled\n"
    text = (folder / "user-data").read_text()
    assert text.startswith("#!/bin/sh\n")
    for shell in (["bash", "-n"], ["busybox", "sh", "-n"]):
        subprocess.run([*shell, folder / "user-data"], check=True)


def test_the_same_files_are_the_same_seed_and_others_another(tmp_path: Path, agent: Path) -> None:
    before = seed.digest(agent)
    assert seed.payload(agent) == seed.payload(agent)
    copied = tmp_path / "copied"
    copied.write_bytes(agent.read_bytes())  # elsewhere, later, not executable
    assert seed.digest(copied) == before
    copied.write_bytes(agent.read_bytes() + b"\n")
    assert seed.digest(copied) != before
