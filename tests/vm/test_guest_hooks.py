"""Hooks around a fork in real machines: what they are told, what their failures do, and what of them is left."""

from __future__ import annotations

from copper.client.commands import Finished
from tests.vm.machinery import Copper

FOLDER = "/etc/gridcentric"
LOG = "/var/log/gridcentric/hooks.log"
# each writes its name and what it is told
NOTE = 'echo "$GC_VMID ${0#/etc/gridcentric/} $GC_IP $GC_PARENT $GC_TICKET $GC_VMIDS" >>/root/ran'


def hook(copper: Copper, vm: str, path: str, text: str) -> None:
    """Writes a hook of a machine."""
    file = f"{FOLDER}/{path}"
    script = 'mkdir -p "${1%/*}" && printf "#!/bin/sh\\n%s\\n" "$2" >"$1" && chmod 755 "$1"'
    copper.exec(vm, "sh", "-c", script, "sh", file, text)


def gc(copper: Copper, vm: str, *argv: str) -> tuple[int, str, str]:
    """The exit status of `gc`, its standard output and error."""
    done: Finished = copper.client.run(vm, ["gc", *argv])
    return done.status, done.stdout.decode(), done.stderr.decode()


def test_they_run_in_their_order_and_know_where_they_are(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    for path in (
        *("post-clone-on-master.d/1", "post-clone-on-clone.d/1", "post-clone.d/1", "post-clone"),
        *("pre-clone.d/10-b", "pre-clone.d/9-a", "pre-clone.d/x.sh", "pre-clone.d/A", "pre-clone"),
    ):
        hook(copper, master, path, NOTE)
    copper.sh(master, f"printf '#!/bin/sh\nfalse\n' >{FOLDER}/pre-clone.d/not-executable")
    ticket = copper.sh(master, "gc rt 2 2 1 1000 | awk '{print $2}'").strip()
    assert gc(copper, master, "clone", ticket) == (0, "0\n", "")
    before = [
        f"0 {name} 10.0.0.1  {ticket} "
        for name in ("pre-clone", "pre-clone.d/10-b", "pre-clone.d/9-a", "pre-clone.d/A")
    ]
    ran = copper.sh(master, "cat /root/ran").splitlines()
    assert ran == [
        *before,
        *(
            f"0 {name} 10.0.0.1  {ticket} 1 2"
            for name in ("post-clone", "post-clone.d/1", "post-clone-on-master.d/1")
        ),
    ]
    for vmid in (1, 2):
        ran = copper.sh(f"a-{vmid}", "cat /root/ran").splitlines()
        assert ran == [
            *before,
            *(
                f"{vmid} {name} 10.0.0.{vmid + 1} 0 {ticket} "
                for name in ("post-clone", "post-clone.d/1", "post-clone-on-clone.d/1")
            ),
        ]


def test_one_before_the_fork_that_fails_aborts_it(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    hook(copper, master, "pre-clone.d/10-flush", "echo the disk is full >&2; exit 3")
    hook(copper, master, "pre-clone.d/20-more", NOTE)
    hook(copper, master, "post-clone", NOTE)
    ticket = copper.sh(master, "gc rt 2 2 1 1000 | awk '{print $2}'").strip()
    tickets = gc(copper, master, "lt")
    said = "gc: clone: hook pre-clone.d/10-flush: exit status 3: the disk is full\n"
    for wanted in (ticket, "2"):
        assert gc(copper, master, "clone", wanted) == (1, "", said)
    assert copper.vms("a") == [master]
    assert [status.name for status in copper.client.statuses()] == [master]
    assert copper.sh(master, "ls /root") == "", "no other hook ran"
    assert gc(copper, master, "lt") == tickets, "the ticket is as it was, and there is no other"
    copper.sh(master, f"rm {FOLDER}/pre-clone.d/10-flush")
    assert gc(copper, master, "clone", ticket) == (0, "0\n", "")


def test_one_on_a_clone_that_fails_is_that_clones_failure(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    hook(
        copper,
        master,
        "post-clone-on-clone.d/10-queue",
        "[ $GC_VMID != 2 ] || { echo no queue >&2; exit 7; }",
    )
    hook(copper, master, "post-clone-on-master.d/1", NOTE)
    said = "gc: clone: a-2: hook post-clone-on-clone.d/10-queue: exit status 7: no queue\n"
    assert gc(copper, master, "clone", "3") == (5, "", said)
    assert copper.vms("a") == [master], "none or all"
    assert [status.name for status in copper.client.statuses()] == [master]
    assert copper.sh(master, "gc lt | grep -c ticket; ls /root") == "1\n"
    assert gc(copper, master, "clone", "1") == (0, "0\n", "")
    assert copper.vms("a") == [master, "a-4"]


def test_others_that_fail_are_named_and_the_fork_is_there(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    hook(copper, master, "post-clone", "echo oh >&2; exit 1")
    hook(copper, master, "post-clone-on-master.d/20-tell", "echo nobody listens >&2; exit 4")
    both = "gc: clone: hook post-clone failed: exit status 1: oh\n"
    mine = "gc: clone: hook post-clone-on-master.d/20-tell failed: exit status 4: nobody listens\n"
    copper.sh(master, "gc clone 1 >/root/out 2>/root/err")
    assert copper.sh(master, "cat /root/out /root/err") == "0\n" + both + mine
    wait = "until [ -s /root/out ]; do sleep 0.05; done; cat /root/out /root/err"
    assert copper.sh("a-1", wait) == "1\n" + both


def test_slow_ones_end_at_their_limit_with_all_that_they_started(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, f"mkdir -p {FOLDER}; echo hook_timeout_s = 1 >{FOLDER}/agent.conf")
    hook(copper, master, "pre-clone", "sleep 5000 & echo waits >&2; wait")
    assert gc(copper, master, "clone", "1") == (
        1,
        "",
        "gc: clone: hook pre-clone: not done within 1 s: waits\n",
    )
    running = "ps | grep -c 'sleep [5]000'"
    assert copper.client.run(master, ["sh", "-c", running]).stdout == b"0\n"
    copper.sh(master, f"rm {FOLDER}/pre-clone")
    hook(copper, master, "post-clone-on-clone.d/1", "sleep 5000")
    said = "gc: clone: a-1: hook post-clone-on-clone.d/1: not done within 1 s\n"
    assert gc(copper, master, "clone", "1") == (5, "", said)
    assert copper.vms("a") == [master]
    copper.sh(master, f"rm {FOLDER}/post-clone-on-clone.d/1")
    hook(copper, master, "post-clone-on-master.d/1", "sleep 5000")
    said = "gc: clone: hook post-clone-on-master.d/1 failed: not done within 1 s\n"
    assert gc(copper, master, "clone", "1") == (0, "0\n", said)
    assert copper.client.run(master, ["sh", "-c", running]).stdout == b"0\n"


def test_what_they_leave_running(copper: Copper, micro: str) -> None:
    """Children end with their hook; a daemon goes on; neither is the caller's child, nor waited for."""
    master = copper.boot("a", micro)
    hook(copper, master, "pre-clone", "sleep 5000 & exit 0")
    hook(copper, master, "post-clone-on-clone.d/1", "sleep 6000 & setsid sleep 7000 & sleep 0.5")
    assert gc(copper, master, "clone", "1") == (0, "0\n", "")
    count = 'for i in 5 6 7; do ps | grep -c "sleep $i[0]00"; done; true'
    assert copper.sh(master, count) == "0\n0\n0\n"
    assert copper.sh("a-1", count) == "0\n0\n1\n"
    assert gc(copper, "a-1", "clone", "1") == (0, "0\n", "")
    assert copper.sh("a-2", count) == "0\n0\n2\n", "a fork has its parent's daemon and its own"


def test_slow_ones_of_clones_may_take_longer_than_a_clone(copper: Copper, micro: str) -> None:
    """The call returns when the last of them is done, in the clone as well."""
    master = copper.boot("a", micro)
    hook(copper, master, "post-clone-on-clone.d/1", "sleep 3; echo done >/root/done")
    copper.sh(master, "gc clone 2 >/root/out")
    for vm in ("a-1", "a-2"):
        assert copper.sh(vm, "cat /root/done") == "done\n"


def test_the_log_says_what_ran_and_how_it_ended(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    hook(copper, master, "pre-clone", "echo to stdout; echo to stderr >&2")
    hook(copper, master, "post-clone-on-clone.d/1", "yes | head -c 200000")
    hook(copper, master, "post-clone-on-master.d/1", "echo oh; exit 4")
    assert gc(copper, master, "clone", "1")[0] == 0
    log = copper.sh(master, f"cat {LOG}")
    for part in (
        *("vmid 0: pre-clone: begins\n", "to stdout\n", "to stderr\n", "vmid 0: pre-clone: done"),
        *("vmid 0: post-clone-on-master.d/1: begins\n", "oh\n"),
        "vmid 0: post-clone-on-master.d/1: exit status 4, after ",
    ):
        assert part in log
    log = copper.sh("a-1", f"cat {LOG}")
    assert "vmid 1: post-clone-on-clone.d/1: done, after " in log
    assert "on-master" not in log
    assert 65_000 < len(log) < 70_000


def test_a_program_that_reaps_all_children_sees_no_hook(copper: Copper, micro: str) -> None:
    """As Node.js does: they are the agent's children, and their statuses are not lost."""
    master = copper.boot("a", micro)
    hook(copper, master, "pre-clone", "cat /proc/$PPID/comm >/root/parent; exit 0")
    assert copper.sh(master, "gc clone 1 & wait; cat /root/parent") == "0\ngridcentric-age\n"
