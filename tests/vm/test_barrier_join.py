"""Barrier and join among real machines that die, are suspended, or lose their host agent while programs wait."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from copper.client.commands import Finished
from tests.vm.machinery import DEADLINE_S, Copper, a_copper

CLONES = 3


@pytest.fixture(scope="module")
def shared(accel: str, micro: str) -> Iterator[Copper]:
    """One Copper for all: what each leaves, its virtual cluster's end takes away."""
    with a_copper(accel) as made:
        yield made


@pytest.fixture
def copper(shared: Copper) -> Iterator[Copper]:
    """It, without a virtual cluster before and after."""
    yield shared
    shared.client.kill("a")
    shared.client.delete("a")
    assert shared.client.statuses() == []


def forked(copper: Copper, image: str, clones: int = CLONES) -> tuple[str, str]:
    """A master that has cloned: its name and the ticket."""
    master = copper.boot("a", image)
    said = copper.exec(master, "gc", "rt", str(clones), str(clones), "1", "20000")
    ticket = said.split()[1]
    assert copper.exec(master, "gc", "clone", ticket) == "0\n"
    return master, ticket


def begin(copper: Copper, vm: str, script: str) -> None:
    """Starts a script that nobody out here waits for; what it says and its exit status go to /root/said."""
    script = f"sleep 0.3; ( {script} ) >/root/said.new 2>&1; echo $? >>/root/said.new"
    script += "; mv /root/said.new /root/said"
    copper.sh(vm, f"setsid sh -c '{script}' </dev/null >/dev/null 2>&1 &")


def said(copper: Copper, vm: str) -> str:
    """What a script has said, once it has ended."""
    return copper.sh(vm, "until [ -e /root/said ]; do sleep 0.1; done; cat /root/said")


def here(copper: Copper, master: str, ticket: str, missing: str) -> None:
    """Returns when nobody else is missing at the barrier, as its time-out tells."""
    deadline = time.monotonic() + DEADLINE_S
    done: Finished | None = None
    while done is None or done.stderr.decode() != (
        f"gc: sync: {missing} did not come within 200 ms\n"
    ):
        assert time.monotonic() < deadline, done
        done = copper.client.run(master, ["gc", "sync", ticket, "200"])
        assert (done.status, done.stdout) == (110, b"")


def killed(copper: Copper, vm: str) -> None:
    """Ends a machine's QEMU, as a crash would."""
    os.kill(copper.client.status(vm).pid, signal.SIGKILL)


def ended(copper: Copper, *vmids: int) -> None:
    """Returns when these clones have ended, as they wished or not."""
    deadline = time.monotonic() + DEADLINE_S
    live: set[int] = set(vmids)
    while live & set(vmids):
        assert time.monotonic() < deadline, live
        live = {vm.vmid for vm in copper.client.vms("a") if vm.state == "running"}


def test_all_return_at_once_and_a_time_out_says_who_is_missing(copper: Copper, micro: str) -> None:
    master, ticket = forked(copper, micro)
    with concurrent.futures.ThreadPoolExecutor(CLONES + 1) as pool:
        for number in range(3):  # again and again
            early = [pool.submit(copper.exec, vm, "gc", "sync") for vm in ("a-1", "a-2")]
            here(copper, master, ticket, "VM 3")
            early.append(pool.submit(copper.exec, master, "gc", "sync", ticket, "60000"))
            assert not any(one.done() for one in early), number
            assert copper.exec("a-3", "gc", "sync") == ""
            assert [one.result(DEADLINE_S) for one in early] == [""] * CLONES


def test_a_clone_that_dies_is_not_waited_for(copper: Copper, micro: str) -> None:
    master, ticket = forked(copper, micro)
    with concurrent.futures.ThreadPoolExecutor(CLONES) as pool:
        waiting = [pool.submit(copper.exec, vm, "gc", "sync") for vm in ("a-1", "a-3")]
        here(copper, master, ticket, "VM 2")
        waiting.append(pool.submit(copper.exec, master, "gc", "sync", ticket, "60000"))
        killed(copper, "a-2")  # one that has not come
        assert [one.result(DEADLINE_S) for one in waiting] == [""] * 3
        begin(copper, "a-1", "gc sync")
        here(copper, master, ticket, "VM 3")
        killed(copper, "a-1")  # one that waits
        other = pool.submit(copper.exec, "a-3", "gc", "sync")
        assert copper.exec(master, "gc", "sync", ticket, "60000") == ""
        assert other.result(DEADLINE_S) == ""


def test_join_brings_statuses_and_files_of_all_that_ended(copper: Copper, micro: str) -> None:
    master, ticket = forked(copper, micro, 4)
    begin(copper, master, f"mkdir /root/all; gc join {ticket} --files /root/all")
    begin(copper, "a-1", "dd if=/dev/urandom of=/root/f bs=49152 count=1; gc join 7 --file /root/f")
    begin(copper, "a-2", "gc join noreport")
    killed(copper, "a-3")
    begin(copper, "a-4", ": >/root/empty; gc join --file /root/empty")
    assert said(copper, master) == "1 7\n3 -1\n4 0\n0\n"
    sizes = copper.sh(master, "cd /root/all; for f in *; do echo $f $(wc -c <$f); done")
    assert sizes == "1 49152\n4 0\n"
    assert [status.name for status in copper.client.statuses()] == [master]
    again = copper.client.run(master, ["gc", "join", ticket])
    assert (again.status, again.stdout) == (2, b"")


def test_the_bytes_that_come_are_those_that_were_left(copper: Copper, micro: str) -> None:
    master, ticket = forked(copper, micro, 2)
    copper.sh(master, "mkdir /root/all")
    sums = {}
    for vmid in (1, 2):
        make = "dd if=/dev/urandom of=/root/f bs=30000 count=1 2>/dev/null; sha256sum </root/f"
        sums[vmid] = copper.sh(f"a-{vmid}", make)
        begin(copper, f"a-{vmid}", f"gc join {vmid} --file /root/f")
    assert copper.exec(master, "gc", "join", ticket, "--files", "/root/all") == "1 1\n2 2\n"
    for vmid in (1, 2):
        assert copper.sh(master, f"sha256sum </root/all/{vmid}") == sums[vmid]


def suspend(copper: Copper) -> None:
    """All to disk and back."""
    copper.run("gc-vc", "suspend", "a")
    copper.run("gc-vc", "resume", "a")


def kill_node(copper: Copper) -> None:
    """The host agent and the controller end at once, and begin again."""
    copper.stop(signal.SIGKILL)
    copper.start()


def stop_node(copper: Copper) -> None:
    """They end as they are told to."""
    copper.stop()
    copper.start()


BREAKS: list[Callable[[Copper], None]] = [suspend, kill_node, stop_node]


@pytest.mark.parametrize("happens", BREAKS)
def test_who_waits_to_join_gets_all_though_much_happens(
    copper: Copper, micro: str, happens: Callable[[Copper], None]
) -> None:
    """One has joined and one has died before; one joins and one dies after."""
    master, ticket = forked(copper, micro, 4)
    begin(copper, master, f"mkdir /root/all; gc join {ticket} --files /root/all")
    begin(copper, "a-1", "echo early >/root/f; gc join 1 --file /root/f")
    killed(copper, "a-2")
    ended(copper, 1, 2)
    happens(copper)
    begin(copper, "a-3", "echo late >/root/f; gc join 3 --file /root/f")
    killed(copper, "a-4")
    assert said(copper, master) == "1 1\n2 -1\n3 3\n4 -1\n0\n"
    assert copper.sh(master, "head /root/all/*") == (
        "==> /root/all/1 <==\nearly\n\n==> /root/all/3 <==\nlate\n"
    )
    assert [status.name for status in copper.client.statuses()] == [master]


@pytest.mark.parametrize("happens", BREAKS)
def test_who_waits_at_a_barrier_goes_on_waiting_though_much_happens(
    copper: Copper, micro: str, happens: Callable[[Copper], None]
) -> None:
    master, ticket = forked(copper, micro)
    for vm in ("a-1", "a-2"):
        begin(copper, vm, "gc sync")
    here(copper, master, ticket, "VM 3")
    begin(copper, master, f"gc sync {ticket} 200000")
    happens(copper)
    for vm in (master, "a-1", "a-2"):
        assert copper.sh(vm, "ls /root; ps | grep -c '[g]c sync'").splitlines()[-1] != "0"
    assert copper.exec("a-3", "gc", "sync") == ""
    for vm in (master, "a-1", "a-2"):
        assert said(copper, vm) == "0\n"


def test_results_wait_for_a_program_that_asks_later(copper: Copper, micro: str) -> None:
    """All have ended, the virtual cluster was suspended, the node killed: then somebody asks for the first time."""
    master, ticket = forked(copper, micro)
    begin(copper, "a-1", "gc join 9")
    copper.exec(master, "gc", "kill", "2")
    killed(copper, "a-3")
    ended(copper, 1, 2, 3)
    suspend(copper)
    kill_node(copper)
    assert copper.exec(master, "gc", "join", ticket) == "1 9\n2 -1\n3 -1\n"
    assert re.fullmatch(r"ticket \S+\n(  .*\n){4}", copper.exec(master, "gc", "lt"))
