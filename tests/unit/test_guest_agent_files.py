"""Files into a guest and out of it, through its real agent."""

from __future__ import annotations

import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from copper.host.guest_port import GuestPort
from copper.model.errors import BadInput, CopperError, NoRoom, NotFound
from tests.unit.guests import Guest, running_guest


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with running_guest() as guest:
        yield guest


@pytest.fixture
async def port(guest: Guest) -> GuestPort:
    return await guest.session()


async def pulled(port: GuestPort, path: Path) -> bytes:
    async with await port.pull(str(path)) as file:
        parts = []
        while part := await file.chunk():
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize("size", [0, 1, 16384, 32768, 300_000, 4_000_000])
async def test_a_file_of_any_size_comes_back(port: GuestPort, tmp_path: Path, size: int) -> None:
    data, path = random.Random(size).randbytes(size), tmp_path / "file"
    assert await port.push(str(path), data) == str(path)
    assert path.read_bytes() == data
    assert await pulled(port, path) == data


async def test_mode_and_time_are_kept(port: GuestPort, tmp_path: Path) -> None:
    path, when = tmp_path / "file", 1_270_123_456_789_012_345
    await port.push(str(path), b"x", mode=0o4751, mtime_ns=when)
    assert path.stat().st_mode & 0o7777 == 0o4751
    assert path.stat().st_mtime_ns == when
    async with await port.pull(str(path)) as file:
        assert (file.size, file.mode, file.mtime_ns) == (1, 0o4751, when)
        assert await file.chunk() == b"x"


async def test_a_source_may_be_a_stream(port: GuestPort, tmp_path: Path) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 1000

    await port.push(str(tmp_path / "file"), parts())
    assert (tmp_path / "file").read_bytes() == b"".join([bytes([n]) * 1000 for n in range(100)])


async def test_a_folder_takes_the_file_under_its_name(port: GuestPort, tmp_path: Path) -> None:
    assert await port.push(str(tmp_path), b"x", name="new") == str(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["", "..", "a/b"])
async def test_a_name_that_leaves_the_folder_is_refused(
    port: GuestPort, tmp_path: Path, name: str
) -> None:
    with pytest.raises(BadInput):
        await port.push(str(tmp_path), b"x", name=name)


async def test_a_file_is_replaced_through_its_link(port: GuestPort, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    await port.push(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


async def test_a_device_is_neither_replaced_nor_read(port: GuestPort) -> None:
    with pytest.raises(BadInput):
        await port.push("/dev/null", b"x")
    with pytest.raises(BadInput, match="not a regular file"):
        await port.pull("/dev/zero")
    assert Path("/dev/null").is_char_device()


async def test_what_is_not_there_is_not_found(port: GuestPort, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await port.pull(str(tmp_path / "none"))
    with pytest.raises(NotFound):
        await port.push(str(tmp_path / "none" / "file"), b"x")
    with pytest.raises(BadInput, match="directory"):
        await port.pull(str(tmp_path))


async def test_a_push_that_is_broken_off_leaves_nothing(port: GuestPort, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise RuntimeError("the source broke")

    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError):
        await port.push(str(tmp_path / "file"), broken())
    await port.ping()  # the agent has seen the end of the stream
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 64 KiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "copper-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_is_said_and_nothing_is_left(port: GuestPort, full: Path) -> None:
    with pytest.raises(NoRoom, match="No space left"):
        await port.push(str(full / "file"), bytes(1_000_000))
    assert list(full.iterdir()) == []


async def test_a_file_system_of_numbers_can_be_pulled(port: GuestPort) -> None:
    assert (await pulled(port, Path("/proc/version"))).startswith(b"Linux version")


async def test_an_unreadable_word_is_refused_here(port: GuestPort) -> None:
    with pytest.raises(BadInput):
        await port.pull("/tmp/\udcff")
    await port.ping()


async def test_without_a_session_nothing_is_sent(guest: Guest) -> None:
    port = await guest.port()
    with pytest.raises(CopperError, match="identity"):
        await port.pull("/etc/passwd")
