"""The peers that need programs of others, where these are installed: a guest, or a process, goes and comes back."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from copper.bench import place
from copper.bench.criu import Criu, kept_as_found
from copper.bench.peers import Peers
from copper.bench.progress import Progress
from copper.bench.stats import Guest
from copper.bench.virsh import Virsh
from copper.model.errors import CopperError, NotFound
from copper.model.settings import from_environment
from copper.vmm.capabilities import probe_qemu
from tests.vm.machinery import images_folder

OUTSIDE = [Path(path) for path in ("/run/libvirt", "/var/lib/libvirt", "/sys/class/net/virbr0")]


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("virsh") is None, reason="there is no virsh")
def test_virsh_stores_a_guest_and_brings_it_back_again_and_again(accel: str) -> None:
    settings = from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})
    keep = place.keep_folder(settings)
    before = [sorted(path.rglob("*")) for path in OUTSIDE]
    with place.run_folders(keep) as (folder, sockets):
        guest = Guest("micro", 256)
        template = place.ready_template(settings, keep, sockets, guest, Progress(1))
        qemu, root = probe_qemu(settings), sockets / "libvirt"
        peers = Peers(qemu, template, folder)
        asyncio.run(peers.settle())
        virsh = Virsh(qemu, template, peers.settled, folder, root)
        asyncio.run(virsh.prepare())
        for _ in range(2):
            restored, saved = asyncio.run(virsh.round())
            assert restored > 0
            assert saved > 0
            assert not (root / "run" / "qemu" / f"{guest.image}.pid").exists()
        (folder / f"{guest.image}.saved").write_bytes(b"nothing of a guest")
        with pytest.raises(CopperError, match="virsh restore: "):
            asyncio.run(virsh.round())
        with pytest.raises(CopperError, match="lost in an earlier round"):
            asyncio.run(virsh.round())
    assert [sorted(path.rglob("*")) for path in OUTSIDE] == before


def test_criu_stores_a_process_and_brings_it_back(tmp_path: Path) -> None:
    criu = Criu(1 << 20, tmp_path, tmp_path)
    with kept_as_found():
        try:
            asyncio.run(criu.prepare())
        except NotFound as error:
            pytest.skip(str(error))
        for _ in range(2):
            assert min(asyncio.run(criu.round())) > 0
    assert not (tmp_path / "criu").exists()
