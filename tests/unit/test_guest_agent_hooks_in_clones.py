"""Hooks in a clone, run by its real agent before it is handed out, and what their failure does."""

from __future__ import annotations

import asyncio
import os

import pytest

from copper.host.guest_port import GuestPort
from copper.model.errors import CopperError, TimedOut
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, TICKET, Guest, Ran, RawHost, ended
from tests.unit.hooks import Host, guest, hook, note_all, noted, until

__all__ = ["guest"]


async def clone(guest: Guest) -> tuple[asyncio.subprocess.Process, GuestPort, int]:
    """A program whose clone call is with the host: itself, the host's end, the call."""
    host = Host(guest)
    host.go.clear()
    port = await guest.session(MASTER, host)
    program = await guest.program("clone", "2")
    return program, port, await host.next()


async def test_hooks_of_a_clone_run_before_it_is_handed_out(guest: Guest) -> None:
    note_all(guest)
    program, port, call = await clone(guest)
    await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    after = ["3 post-clone", "3 post-clone.d/50-x", "3 post-clone-on-clone.d/50-x"]
    assert noted(guest)[2:] == after
    assert await ended(program) == Ran(0, "3\n", "")
    assert noted(guest)[2:] == after


async def test_a_clones_hooks_know_the_clone(guest: Guest) -> None:
    text = "env | grep ^GC_ | sort >$OUT/env; $OUT/gc vmid >>$OUT/env"
    hook(
        guest,
        "post-clone-on-clone.d/1",
        f"GRIDCENTRIC_SOCKET=$OUT/agent.sock\nexport GRIDCENTRIC_SOCKET\n{text}",
    )
    _, port, call = await clone(guest)
    await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    assert (guest.folder / "env").read_text().splitlines() == [
        "GC_IP=10.0.0.4",
        "GC_PARENT=0",
        f"GC_TICKET={TICKET}",
        "GC_VMID=3",
        "3",
    ]


async def test_a_hook_of_a_clone_that_fails_fails_the_clone(guest: Guest) -> None:
    hook(guest, "post-clone.d/1", "exit 9")
    hook(guest, "post-clone-on-clone.d/10-queue", "echo no queue >&2; exit 7")
    hook(guest, "post-clone-on-clone.d/20-more", "echo more >>$OUT/ran")
    program, port, call = await clone(guest)
    says = "web-3: hook post-clone-on-clone.d/10-queue: exit status 7: no queue"
    with pytest.raises(CopperError, match=says):
        await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    assert noted(guest) == []
    assert program.returncode is None, "it is never told: this VM ends"
    program.kill()
    await ended(program)


async def test_other_failures_are_named_in_the_clone(guest: Guest) -> None:
    hook(guest, "post-clone.d/1", "echo oh >&2; exit 9")
    program, port, call = await clone(guest)
    await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    line = "gc: clone: hook post-clone.d/1 failed: exit status 9: oh\n"
    assert await ended(program) == Ran(0, "3\n", line)


async def test_a_host_waits_for_hooks_that_take_long(guest: Guest) -> None:
    hook(guest, "post-clone-on-clone.d/1", "sleep 4")
    program, port, call = await clone(guest)
    await port.begin(IDENTITY, "clone", call, deadline=3)
    assert await ended(program) == Ran(0, "3\n", "")


async def test_a_hook_of_a_clone_has_a_limit(guest: Guest) -> None:
    hook(guest, "post-clone-on-clone.d/1", "sleep 1000")
    (guest.folder / "etc/agent.conf").write_text("hook_timeout_s = 1")
    program, port, call = await clone(guest)
    with pytest.raises(CopperError, match="not done within 1 s") as caught:
        await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    assert not isinstance(caught.value, TimedOut)
    program.kill()
    await ended(program)


async def test_only_clones_run_hooks_at_a_new_session(guest: Guest) -> None:
    note_all(guest)
    port = await guest.port()
    for event in ("boot", "adopt", "resume"):
        await port.begin(IDENTITY, event, deadline=DEADLINE)
    assert noted(guest) == []
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)  # one that no program asked for
    assert len(noted(guest)) == 3


async def test_a_session_told_again_while_hooks_run_is_not_ready_yet(guest: Guest) -> None:
    os.mkfifo(guest.folder / "gate")
    hook(guest, "post-clone-on-clone.d/1", "echo began >>$OUT/ran; cat <$OUT/gate")
    host = RawHost(await guest.connection())
    session = {"type": "session", "identity": IDENTITY, "event": "clone"}
    await host.tell(5, session=5, **session)
    await until(lambda: noted(guest) == ["began"])
    await host.tell(5, session=5, **session)
    await host.tell(5, type="ping", id=1)
    seen: list[str] = []
    while not seen or seen[-1] != "Pong":
        seen.append(type((await host.message())[1]).__name__)
    assert [name for name in seen if name != "Hello"] == ["Working", "Pong"]
    (guest.folder / "gate").write_text("go")
    assert type((await host.message())[1]).__name__ == "Ready"
    assert noted(guest) == ["began"]
    host.sock.close()


async def test_a_new_host_agent_meets_a_clone_whose_hooks_run(guest: Guest) -> None:
    os.mkfifo(guest.folder / "gate")
    hook(guest, "post-clone-on-clone.d/1", "cat <$OUT/gate; echo $GC_VMID >>$OUT/ran")
    port = await guest.port()
    first = asyncio.create_task(port.begin(IDENTITY, "clone", deadline=DEADLINE))
    await until(lambda: (guest.folder / "log/hooks.log").exists())
    again = asyncio.create_task(port.begin(IDENTITY, "adopt", deadline=DEADLINE))
    with pytest.raises(CopperError, match="another session"):
        await first
    (guest.folder / "gate").write_text("go")
    await again
    assert noted(guest) == ["3"]


async def test_in_a_clone_the_calls_of_others_are_over(guest: Guest) -> None:
    """One program's hooks run when another's fork, which began before there were hooks, is done."""
    host = Host(guest)
    host.go.clear()
    port = await guest.session(MASTER, host)
    first = await guest.program("clone", "2")
    call = await host.next()
    os.mkfifo(guest.folder / "gate")
    hook(guest, "pre-clone", "echo began >>$OUT/ran; cat <$OUT/gate")
    second = await guest.program("clone", "2")
    await until(lambda: noted(guest) == ["began"])
    third = await guest.program("clone", "2")
    assert await guest.gc("vmid") == Ran(0, "0\n", "")
    await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    assert await ended(first) == Ran(0, "3\n", "")
    assert (await ended(second)).status == 5
    third_ran = asyncio.create_task(ended(third))
    (guest.folder / "gate").write_text("go")
    host.go.set()
    if (ran := await third_ran).status == 0:  # it came after the fork: this is its own
        (guest.folder / "gate").write_text("go")
    assert ran.status in (0, 5)
