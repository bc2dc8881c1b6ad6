"""native/: pages of a process that stands for QEMU, saved and laid against a model of what they must be."""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from copper.image.layers import Layer, joined, read_index
from copper.model.errors import CopperError, NoRoom
from copper.vmm.layers import FLATTEN, PAGE, SKIP_ZERO, LayerControl, new_layer, seal

ROOT = Path(__file__).resolve().parents[2]
PAGES = 2048
# maps the file that names guest memory, as QEMU does, and then does what it is told
GUEST = """
import mmap, os, sys
ram = mmap.mmap(int(sys.argv[1]), int(sys.argv[2]), mmap.MAP_PRIVATE)
ram.madvise(mmap.MADV_HUGEPAGE)
for line in sys.stdin:
    verb, page, byte = line.split()
    at = int(page) * 4096
    if verb == "write":
        ram[at : at + 4096] = bytes([int(byte)]) * 4096
        print("ok", flush=True)
    elif verb == "touch":
        for i in range(int(byte)):
            ram[at + i * 4096] = ram[at + i * 4096]
        print("ok", flush=True)
    elif verb == "copy":
        until, held = os.pipe()
        copy = os.fork()
        if not copy:
            os.close(held)
            os.read(until, 1)  # it ends with its parent, however that ends
            os._exit(0)
        print("ok", flush=True)
    elif verb == "end":
        os.close(held)
        os.waitpid(copy, 0)
        print("ok", flush=True)
    else:
        first = ram[at]
        same = ram[at : at + 4096] == bytes([first]) * 4096
        print(first if same else -1, flush=True)
"""


class Guest:
    """A process with the library in it, and the model: page → byte."""

    def __init__(self, folder: Path) -> None:
        library = ROOT / "build" / "libcopper-layers.so"
        assert library.exists(), "native/build has not been run"
        path = folder / "layers.sock"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(str(path))
        listening.listen(1)
        ram = os.memfd_create("ram")
        os.ftruncate(ram, PAGES * PAGE)
        self.process = subprocess.Popen(
            [sys.executable, "-c", GUEST, str(ram), str(PAGES * PAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[ram, listening.fileno()],
            env={
                "LD_PRELOAD": str(library),
                "COPPER_LAYERS_RAM": str(ram),
                "COPPER_LAYERS_LISTEN": str(listening.fileno()),
            },
        )
        os.close(ram)
        listening.close()
        self.tell("read 0 0")  # it has mapped its memory
        self.control = LayerControl.connect(path)
        self.model: dict[int, int] = {}
        self.layers: list[Layer] = []

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def write(self, page: int, byte: int) -> None:
        assert self.tell(f"write {page} {byte}") == "ok"
        self.model[page] = byte

    def touch(self, first: int, count: int) -> None:
        assert self.tell(f"touch {first} {count}") == "ok"

    def check(self, pages: list[int] | None = None) -> None:
        for page in pages if pages is not None else sorted(self.model):
            assert int(self.tell(f"read {page} 0")) == self.model.get(page, 0), page

    async def save(self, flags: int = 0, *, ahead: bool = False) -> Layer:
        fd = new_layer(f"{len(self.layers):04d}")
        if ahead:
            ranges = joined(self.layers[1:]) if flags & FLATTEN else []
            await self.control.precopy(fd, ranges)
        await self.control.save(fd, flags=flags, most_bytes=1 << 30)
        seal(fd)
        layer = Layer(f"{len(self.layers):04d}", fd)
        if flags & FLATTEN:
            for old in self.layers[1:]:
                old.close()
            del self.layers[1:]
        self.layers.append(layer)
        return layer

    async def become(self, other: Guest) -> None:
        """Lays another's layers over this one, as a thaw does."""
        await self.control.lay([layer.fd for layer in other.layers], reset=True)
        self.model = dict(other.model)
        self.layers = [layer.share() for layer in other.layers]

    def end(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        for layer in self.layers:
            layer.close()


@pytest.fixture
def born() -> Iterator[list[Guest]]:
    """Every guest of a test; all are ended with it."""
    guests: list[Guest] = []
    yield guests
    for guest in guests:
        guest.end()


def new_guest(born: list[Guest]) -> Guest:
    folder = Path(tempfile.mkdtemp(prefix="cl-"))
    guest = Guest(folder)
    born.append(guest)
    (folder / "layers.sock").unlink()
    folder.rmdir()
    return guest


async def test_only_written_pages_are_saved_and_zero_pages_left_out(born: list[Guest]) -> None:
    guest = new_guest(born)
    for page in (5, 6, 7, 900):
        guest.write(page, 9)
    guest.write(1000, 0)
    layer = await guest.save(SKIP_ZERO)
    assert layer.index.ranges == [(5 * PAGE, 3 * PAGE), (900 * PAGE, PAGE)]
    assert (await guest.control.stat()).pages == 1  # the zero page; the others are the layer's now
    guest.check()


async def test_a_zero_written_over_a_lower_layer_is_kept(born: list[Guest]) -> None:
    guest, clone = new_guest(born), new_guest(born)
    guest.write(5, 9)
    await guest.save(SKIP_ZERO)
    guest.write(5, 0)
    await guest.save()
    await clone.become(guest)
    assert clone.tell("read 5 0") == "0"


async def test_near_runs_become_one_extent(born: list[Guest]) -> None:
    guest = new_guest(born)
    for page in (10, 12, 14, 100):
        guest.write(page, page)
    layer = await guest.save()
    assert layer.index.ranges == [(10 * PAGE, 5 * PAGE), (100 * PAGE, PAGE)]
    guest.check([10, 11, 12, 13, 14, 100])


async def test_reading_makes_no_page_a_vms_own(born: list[Guest]) -> None:
    guest, clone = new_guest(born), new_guest(born)
    guest.write(3, 3)
    await guest.save(SKIP_ZERO)
    await clone.become(guest)
    clone.check([3, 4, 5])
    assert (await clone.control.stat()).pages == 0


async def test_what_is_too_large_is_refused_and_nothing_has_changed(born: list[Guest]) -> None:
    guest = new_guest(born)
    for page in range(100):
        guest.write(page, 7)
    fd = new_layer("full")
    with pytest.raises(NoRoom):
        await guest.control.save(fd, flags=0, most_bytes=50 * PAGE)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    assert (await guest.control.stat()).pages == 100
    await guest.save()
    guest.check()


async def test_a_page_written_after_it_was_copied_ahead_is_right(born: list[Guest]) -> None:
    guest, clone = new_guest(born), new_guest(born)
    for page in range(600):
        guest.write(page, 1)
    fd = new_layer("ahead")
    ahead = await guest.control.precopy(fd, [])
    for page in (0, 17, 599, 700):
        guest.write(page, 2)
    done = await guest.control.save(fd, flags=0, most_bytes=1 << 30)
    seal(fd)
    guest.layers.append(Layer("ahead", fd))
    if ahead.tracked:  # the kernel can say what changed: only that was copied in the pause
        assert ahead.pages == 600
        assert done.tracked
    await clone.become(guest)
    clone.check()
    guest.check()


@pytest.mark.parametrize("seed", range(6))
async def test_any_history_of_writes_saves_and_thaws(born: list[Guest], seed: int) -> None:
    chance = random.Random(seed)
    guest = new_guest(born)
    for page in chance.sample(range(PAGES), 300):
        guest.write(page, chance.randrange(256))
    await guest.save(SKIP_ZERO)
    for _ in range(14):
        near = chance.randrange(PAGES - 60)
        for _ in range(chance.randrange(40)):
            page = chance.choice([chance.randrange(PAGES), near + chance.randrange(60)])
            guest.write(page, chance.randrange(256))
        match chance.randrange(4):
            case 0:
                await guest.save(FLATTEN, ahead=True)
            case 1:
                await guest.save(ahead=True)
            case _:
                await guest.save()
        if chance.random() < 0.4:
            clone = new_guest(born)
            await clone.become(guest)
            guest = clone
    clone = new_guest(born)
    await clone.become(guest)
    clone.check(list(range(PAGES)))
    guest.check(list(range(PAGES)))


async def test_damaged_layers_are_refused_before_anything_is_mapped(born: list[Guest]) -> None:
    guest = new_guest(born)
    guest.write(1, 1)
    layer = await guest.save()
    size = os.fstat(layer.fd).st_size
    raw = os.pread(layer.fd, size, 0)
    chance = random.Random(3)
    index_at = int.from_bytes(raw[32:40], "little")
    for _ in range(300):
        at = chance.choice([chance.randrange(48), index_at + chance.randrange(24)])
        changed = bytearray(raw)
        changed[at] ^= 1 << chance.randrange(8)
        fd = new_layer("damaged")
        os.write(fd, changed)
        with contextlib.suppress(CopperError):
            await guest.control.lay([fd], reset=False)
        os.close(fd)
    assert guest.tell("write 7 7") == "ok"  # it lives


async def test_requests_that_make_no_sense_are_answered(born: list[Guest]) -> None:
    guest = new_guest(born)
    sock = guest.control._socket
    sock.setblocking(True)
    fd = new_layer("x")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]).tobytes())]
    chance = random.Random(5)
    for _ in range(300):
        raw = chance.randbytes(chance.randrange(1, 80))
        sock.sendmsg([raw], rights if chance.random() < 0.5 else [])
        assert len(sock.recv(256)) == 64
    os.close(fd)
    sock.setblocking(False)
    guest.write(1, 1)
    await guest.save()
    guest.check()


def test_an_index_says_what_the_file_holds() -> None:
    fd = new_layer("empty")
    with pytest.raises(CopperError):
        read_index(fd)
    os.close(fd)
