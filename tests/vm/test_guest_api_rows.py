"""The table of the command `gc`, row by row, and its errnos, in real machines.

The Copper here has room for four machines: what a row leaves behind, the next one lacks. Rows that change nothing
share the machines of one setup.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from copper.model.errors import CopperError
from tests.vm.machinery import DEADLINE_S, Copper, a_copper

ROOM = 4
CLUSTER = "row"
NOBODYS = "00000000-0000-0000-0000-000000000000"
# what `out` and `err` of a row have in the places of values that vary
VARYING = {
    "<uuid>": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "<ip>": r"10(?:\.\d{1,3}){3}",
    "<bytes>": r"[1-9]\d{5,9}",
    "<host>": r"[a-z0-9-]+",
    "<more>": r".+",
    "<version>": r"\d+\.\d+\.\d+",
}
# $t is a ticket of three, as scripts cut it; `fork` clones on it, and its clones run what is given
WORDS = """
t=$(gc rt 3 3 1 20000 | awk '{print $2}')
fork() {
    me=$(gc clone $t) || exit
    [ $me = 0 ] || { eval "$*"; exec sleep 10000; }
}
"""
TICKET = "ticket <uuid>\n  status used\n  cpus 1\n  vms 1\n  mincpuspervm 1\n"
GRANTED = "ticket <uuid>\n  status granted\n  cpus 3\n  vms 3\n  mincpuspervm 1\n"
CLONES = "".join(f"vmid {vmid}\nip 10.0.0.{vmid + 1}\nstate running\n" for vmid in (1, 2, 3))
LIST = """\
vmid  address   generation  parent  state    host
0     10.0.0.1  0           -       running  <host>
1     10.0.0.2  1           0       running  <host>
2     10.0.0.3  1           0       running  <host>
3     10.0.0.4  1           0       running  <host>
"""
RT = "request-ticket MAXCPUS MINVMS MINCPUSPERVM TIMEOUT_MS"
FORK = WORDS + "fork"
# commands that change nothing
ASK = re.compile(
    r"\bgc (?:vmid|my-ip|ismaster|lt|ltd|list\S*|known-hosts|stat|help|--version)(?![\w-])"
)


@dataclass(frozen=True)
class Row:
    """What a shell in a machine is told, and what `gc` then prints and exits with."""

    id: str
    command: str
    out: str = ""
    exit: int = 0
    err: str = ""
    setup: str = ""  # by a shell in the master, which goes on with the command
    vm: int = 0  # the vmid of the machine that the command is for; other than 0: by another shell
    left: tuple[int, ...] | None = None  # the machines that are there when the command has returned

    @property
    def asks(self) -> bool:
        """Whether nothing is changed by it: by what it asks, or since it fails at once."""
        return not re.search(r"\bgc ", ASK.sub("", self.command)) or (
            self.exit != 0 and not self.setup
        )

    def place(self) -> tuple[bool, str]:
        """Those that share machines come one after the other."""
        return not self.asks, self.setup if self.asks else ""


def no_such(verb: str) -> str:
    return f"gc: {verb}: there is no ticket '{NOBODYS}'\n"


def usage(text: str) -> str:
    return f"gc: {text.split()[0]}: expected: gc {text}\n"


ROWS = [
    # rt
    Row("rt", "gc rt 2 1 1 1000", "ticket <uuid>\n"),
    Row("request-ticket", "gc request-ticket 2 1 1 0", "ticket <uuid>\n"),
    Row("rt, field 2", "gc rt 1 1 1 0 | awk '{print $2}'", "<uuid>\n"),
    Row("rt: as many as fit", "gc rt 9 1 1 0 >/dev/null; gc lt", TICKET + GRANTED),
    Row(
        "rt: no room",
        "gc rt 4 4 1 0",
        exit=16,
        err="gc: request-ticket: there is room for 3, not for 4 (<more>)\n",
    ),
    Row(
        "rt: waits, then no room",
        "s=$(date +%s); gc rt 1 1 1 2000; e=$?; [ $(($(date +%s) - s)) -ge 1 ] && exit $e",
        exit=16,
        err="gc: request-ticket: there is room for 0, not for 1 (<more>)\n",
        setup=FORK,
    ),
    Row(
        "rt: waits for room",
        "gc rt 1 1 1 60000",
        "ticket <uuid>\n",
        setup=FORK + "; { sleep 1; gc kill 2; } &",
    ),
    Row(
        "rt: more than a clone has",
        "gc rt 2 1 2 0",
        exit=16,
        err="gc: request-ticket: MINCPUSPERVM: a clone of this VM has 1, not 2\n",
    ),
    Row(
        "rt: MAXCPUS",
        "gc rt 0 1 1 0",
        exit=22,
        err="gc: request-ticket: expected MAXCPUS from 1 to 2147483647, got '0'\n",
    ),
    Row(
        "rt: MINVMS",
        "gc rt 1 one 1 0",
        exit=22,
        err="gc: request-ticket: expected MINVMS from 1 to 2147483647, got 'one'\n",
    ),
    Row(
        "rt: MINCPUSPERVM",
        "gc rt 1 1 1.5 0",
        exit=22,
        err="gc: request-ticket: expected MINCPUSPERVM from 1 to 2147483647, got '1.5'\n",
    ),
    Row(
        "rt: TIMEOUT_MS",
        "gc rt 1 1 1 -1",
        exit=22,
        err="gc: request-ticket: expected TIMEOUT_MS from 0 to 2147483647, got '-1'\n",
    ),
    Row(
        "rt: too few for all",
        "gc rt 3 2 2 0",
        exit=22,
        err="gc: request-ticket: MAXCPUS: expected at least MINVMS times MINCPUSPERVM, 4, got 3\n",
    ),
    Row("rt: three arguments", "gc rt 1 1 1", exit=22, err=usage(RT)),
    # clone
    Row("clone TICKET", "gc clone $t", "0\n", setup=WORDS, left=(0, 1, 2, 3)),
    Row(
        "clone TICKET: all that it holds",
        "gc clone $(gc rt 2 1 1 0 | awk '{print $2}')",
        "0\n",
        left=(0, 1, 2),
    ),
    Row("clone COUNT", "gc clone 2", "0\n", left=(0, 1, 2)),
    Row(
        "clone, in a clone",
        "until [ -s /root/said ]; do sleep 0.05; done; cat /root/said",
        "3\n",
        setup="gc clone 3 >/root/said",
        vm=3,
    ),
    Row("clone, by a clone", "gc clone 2", "0\n", setup="gc clone 1", vm=1, left=(0, 1, 2, 3)),
    Row(
        "clone: none or all",
        "gc clone 4",
        exit=16,
        err="gc: clone: there is room for 3, not for 4 (<more>)\n",
        left=(0,),
    ),
    Row(
        "clone: no such ticket",
        f"gc clone {NOBODYS}",
        exit=2,
        err=no_such("clone"),
        left=(0,),
    ),
    Row(
        "clone: a ticket that was used",
        "gc clone $t",
        exit=22,
        err="gc: clone: ticket <uuid> has been used\n",
        setup=FORK,
        left=(0, 1, 2, 3),
    ),
    *(
        Row(
            f"clone {word}",
            f"gc clone {word}",
            exit=22,
            err=f"gc: clone: expected a count from 1 to 1024 or a ticket, got '{word}'\n",
            left=(0,),
        )
        for word in ("0", "-1", "1025", "two", NOBODYS[1:])
    ),
    Row("clone: no argument", "gc clone", exit=22, err=usage("clone COUNT|TICKET")),
    # who am I
    Row("vmid", "gc vmid", "0\n"),
    Row("vmid, in a clone", "gc vmid", "2\n", setup="gc clone 2", vm=2),
    Row("vmid: an argument", "gc vmid 1", exit=22, err=usage("vmid")),
    Row("my-ip", "gc my-ip", "10.0.0.1\n"),
    Row("my-ip, in a clone", "gc my-ip", "10.0.0.4\n", setup="gc clone 3", vm=3),
    Row("my-ip: an argument", "gc my-ip 1", exit=22, err=usage("my-ip")),
    Row("ismaster", "gc ismaster"),
    Row("ismaster, in a clone", "gc ismaster", exit=1, setup="gc clone 1", vm=1),
    Row("ismaster: an argument", "gc ismaster 1", exit=22, err=usage("ismaster")),
    # lt
    Row("lt", "gc lt", TICKET),
    Row("lt, in a clone", "gc lt", TICKET, setup="gc clone 1", vm=1),
    Row("list-tickets", "gc list-tickets", TICKET + GRANTED, setup=WORDS),
    Row(
        "lt: one that was used",
        "gc lt | grep ticket; gc lt | grep -c status",
        "ticket <uuid>\nticket <uuid>\n2\n",
        setup=FORK,
    ),
    Row("lt: an argument", "gc lt 1", exit=22, err=usage("list-tickets")),
    # ltd
    Row("ltd", "gc ltd $t", CLONES, setup=FORK),
    Row(
        "list-ticket-domains",
        "gc list-ticket-domains $t | grep ip | awk '{print $2}'",
        "10.0.0.2\n10.0.0.3\n10.0.0.4\n",
        setup=FORK,
    ),
    Row("ltd: without clones", "gc ltd $t", setup=WORDS),
    Row("ltd: one was ended", "gc kill 2; gc ltd $t | grep -c vmid", "2\n", setup=FORK),
    Row("ltd: no such ticket", f"gc ltd {NOBODYS}", exit=2, err=no_such("list-ticket-domains")),
    Row(
        "ltd: no ticket",
        "gc ltd 7",
        exit=22,
        err="gc: list-ticket-domains: expected a ticket's UUID, got '7'\n",
    ),
    Row("ltd: no argument", "gc ltd", exit=22, err=usage("list-ticket-domains TICKET")),
    # list
    Row("list", "gc list", LIST, setup="gc clone 3"),
    Row("list, in a clone", "gc list", LIST, setup="gc clone 3", vm=2),
    Row(
        "list: live ones only",
        "gc kill 1 3; gc list | awk '{print $1}'",
        "vmid\n0\n2\n",
        setup=FORK,
    ),
    Row("list: an argument", "gc list 1", exit=22, err=usage("list [--json]")),
    # sync
    Row("sync", "gc sync $t 60000", setup=WORDS + "fork gc sync"),
    Row(
        "sync, in a clone",
        "gc sync",
        setup=WORDS + "fork '[ $me = 1 ] || gc sync'; gc sync $t 60000 &",
        vm=1,
    ),
    Row("sync: without clones", "gc sync $t 0", setup=WORDS),
    Row("sync: its clones ended", "gc killall; gc sync $t 0", setup=FORK),
    Row(
        "sync: one ended",
        "gc kill 2; gc sync $t 60000",
        setup=WORDS + "fork '[ $me = 2 ] || gc sync'",
    ),
    Row(
        "sync: too late",
        "gc sync $t 300",
        exit=110,
        err="gc: sync: VMs 1, 2 and 3 did not come within 300 ms\n",
        setup=FORK,
    ),
    Row("sync: no such ticket", f"gc sync {NOBODYS} 9", exit=2, err=no_such("sync")),
    Row(
        "sync: in the master",
        "gc sync",
        exit=22,
        err="gc: sync: expected TICKET and TIMEOUT_MS: the master is no clone\n",
    ),
    Row(
        "sync: no ticket",
        "gc sync 7 9",
        exit=22,
        err="gc: sync: expected a ticket's UUID, got '7'\n",
    ),
    Row(
        "sync: TIMEOUT_MS",
        f"gc sync {NOBODYS} soon",
        exit=22,
        err="gc: sync: expected TIMEOUT_MS from 0 to 2147483647, got 'soon'\n",
    ),
    Row("sync: one argument", "gc sync 7", exit=22, err=usage("sync [TICKET TIMEOUT_MS]")),
    # join
    Row("join TICKET", "gc join $t", "1 0\n2 0\n3 0\n", setup=WORDS + "fork gc join", left=(0,)),
    Row(
        "join STATUS",
        "gc join $t 60000",
        "1 101\n2 102\n3 103\n",
        setup=WORDS + "fork 'gc join $((100 + me))'",
        left=(0,),
    ),
    Row(
        "join noreport",
        "gc join $t",
        "1 0\n3 0\n",
        setup=WORDS + "fork '[ $me = 2 ] && gc join noreport; gc join'",
        left=(0,),
    ),
    Row(
        "join --file",
        "mkdir /tmp/all; gc join $t --files /tmp/all; cd /tmp/all; head *",
        "1 7\n2 7\n3 7\n==> 1 <==\nI am 1\n\n==> 2 <==\nI am 2\n\n==> 3 <==\nI am 3\n",
        setup=WORDS + "fork 'echo I am $me >/tmp/mine; gc join 7 --file /tmp/mine'",
        left=(0,),
    ),
    Row(
        "join: one died",
        "gc kill 2; gc join $t",
        "1 0\n2 -1\n3 0\n",
        setup=WORDS + "fork '[ $me = 2 ] || gc join'",
        left=(0,),
    ),
    Row("join: without clones", "gc join $t", setup=WORDS),
    Row(
        "join: does not return",
        "gc join $t; gc ltd $t",
        "1 0\n2 0\n3 0\n",
        exit=2,
        err="gc: list-ticket-domains: there is no ticket '<uuid>'\n",
        setup=WORDS + "fork 'gc join; gc kill 0 1 2 3; gc clone 1'",
        left=(0,),
    ),
    Row(
        "join: room is free",
        "gc join $t >/dev/null; gc clone 3",
        "0\n",
        setup=WORDS + "fork gc join",
        left=(0, 4, 5, 6),
    ),
    Row(
        "join TICKET TIMEOUT_MS: too late",
        "gc join $t 300",
        exit=110,
        err="gc: join: VMs 1 and 3 did not end within 300 ms\n",
        setup=WORDS + "fork '[ $me = 2 ] && gc join'; gc kill 2",
        left=(0, 1, 3),
    ),
    Row("join: no such ticket", f"gc join {NOBODYS} 9", exit=2, err=no_such("join")),
    Row(
        "join: collected before",
        "gc join $t",
        exit=2,
        err="gc: join: there is no ticket '<uuid>'\n",
        setup=WORDS + "fork gc join; gc join $t",
    ),
    *(
        Row(
            f"join: in the master, {words}",
            words,
            exit=1,
            err="gc: join: the master is no clone: it has nobody to report to\n",
        )
        for words in ("gc join", "gc join 3", "gc join noreport")
    ),
    *(
        Row(
            f"join {word}",
            f"gc join {word}",
            exit=22,
            err=f"gc: join: expected a status from 0 to 255, got '{word}'\n",
        )
        for word in ("256", "-1", "report")
    ),
    Row(
        "join: TIMEOUT_MS",
        f"gc join {NOBODYS} soon",
        exit=22,
        err="gc: join: expected TIMEOUT_MS from 0 to 2147483647, got 'soon'\n",
    ),
    Row(
        "join: no such file",
        "gc join --file /no",
        exit=22,
        err="gc: join: --file: /no: No such file or directory\n",
    ),
    # kill, kill-generation, killall
    Row("kill", "gc kill 2", setup="gc clone 3", left=(0, 1, 3)),
    Row(
        "kill: several, and room is free",
        "gc kill 1 2 3 && gc clone 3",
        "0\n",
        setup=FORK,
        left=(0, 4, 5, 6),
    ),
    Row("kill: by a clone", "gc kill 2", setup="gc clone 2", vm=1, left=(0, 1)),
    Row(
        "kill: the master", "gc kill 0", exit=1, err="gc: kill: the master is no clone\n", left=(0,)
    ),
    Row(
        "kill: no such VM, then none",
        "gc kill 1 7",
        exit=2,
        err="gc: kill: there is no VM 7\n",
        setup="gc clone 1",
        left=(0, 1),
    ),
    Row(
        "kill: no vmid",
        "gc kill 1 x",
        exit=22,
        err="gc: kill: expected a vmid from 0 to 2147483647, got 'x'\n",
        setup="gc clone 1",
        left=(0, 1),
    ),
    Row("kill: no argument", "gc kill", exit=22, err=usage("kill VMID…")),
    Row(
        "kill-generation",
        "gc kill-generation 2 && gc clone 2",
        "0\n",
        setup="gc clone 2; gc clone 1",
        left=(0, 3, 4, 5),
    ),
    Row(
        "kill-generation: no such VM",
        "gc kill-generation 7",
        exit=2,
        err="gc: kill-generation: there is no VM 7\n",
    ),
    Row(
        "kill-generation: the master",
        "gc kill-generation 0",
        exit=1,
        err="gc: kill-generation: the master is no clone\n",
    ),
    Row(
        "kill-generation: no vmid",
        "gc kill-generation x",
        exit=22,
        err="gc: kill-generation: expected a vmid from 0 to 2147483647, got 'x'\n",
    ),
    Row(
        "kill-generation: no argument",
        "gc kill-generation",
        exit=22,
        err=usage("kill-generation VMID"),
    ),
    Row("killall", "gc killall && gc clone 3", "0\n", setup=FORK, left=(0, 4, 5, 6)),
    Row("killall: without clones", "gc killall", left=(0,)),
    Row(
        "killall: descendants only",
        "gc clone 1 >/dev/null; gc killall",
        setup="gc clone 2",
        vm=1,
        left=(0, 1, 2),
    ),
    Row("killall: an argument", "gc killall 1", exit=22, err=usage("killall")),
    # known-hosts: micro has no sshd, so nobody has a key
    Row("known-hosts", "gc known-hosts", "", setup="gc clone 3"),
    Row("known-hosts: an argument", "gc known-hosts a", exit=22, err=usage("known-hosts")),
    # stat
    Row(
        "stat",
        "gc stat | tr -s ' '",
        "vmid nominal shared own\n0 268435456 <bytes> <bytes>\n",
    ),
    Row(
        "stat: a generation",
        "gc stat | awk '{print $1, $2}'",
        "vmid nominal\n1 268435456\n2 268435456\n",
        setup="gc clone 2",
        vm=1,
    ),
    Row("stat: an argument", "gc stat 1", exit=22, err=usage("stat [--json]")),
    # help and version
    Row("help", "gc help | head -1", "usage: gc VERB [ARGUMENT]…\n"),
    Row("help VERB", "gc help vmid", "usage: gc vmid\nprints this VM's number: 0 in the master\n"),
    Row(
        "help VERB: its long name",
        "gc help ltd",
        "usage: gc list-ticket-domains TICKET\nshows the clones made on a ticket\nalso: gc ltd\n",
    ),
    Row(
        "help: no such verb",
        "gc help fly",
        exit=22,
        err="gc: help: there is no verb 'fly': gc help lists them\n",
    ),
    Row("--version", "gc --version", "gc <version>\n"),
    Row("no such verb", "gc fly", exit=22, err="gc: there is no verb 'fly': gc help lists them\n"),
    # who may, and whether anybody answers
    Row(
        "no permission",
        "su -s /bin/sh nobody -c 'gc vmid'",
        exit=13,
        err="gc: no permission to use /run/gridcentric/agent.sock"
        " (an administrator opens it to all: chmod og+rw)\n",
    ),
    Row(
        "permission for all",
        "su -s /bin/sh nobody -c 'gc vmid; gc clone 1'",
        "0\n0\n",
        setup="chmod og+rw /run/gridcentric/agent.sock",
        left=(0, 1),
    ),
    Row(
        "permission for all, in a clone",
        "su -s /bin/sh nobody -c 'gc vmid'",
        "1\n",
        setup="chmod og+rw /run/gridcentric/agent.sock; gc clone 1",
        vm=1,
    ),
    Row(
        "no agent",
        "GRIDCENTRIC_SOCKET=/no gc vmid",
        exit=111,
        err="gc: the agent is not running: /no: No such file or directory\n",
    ),
    Row(
        "the host side fails",
        "gc clone 2",
        exit=5,
        err="gc: clone: <host>-[12]: hook post-clone-on-clone.d/no: exit status 9: oh no\n",
        setup="d=/etc/gridcentric/post-clone-on-clone.d; mkdir -p $d; echo '#!/bin/sh' >$d/no;"
        " echo 'echo oh no >&2; exit 9' >>$d/no; chmod +x $d/no",
        left=(0,),
    ),
]


IN_ORDER = sorted(ROWS, key=Row.place)


@pytest.fixture(scope="module")
def small(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper whose host has processors for four machines."""
    with a_copper(accel, COPPER_CPU_RATIO=str(ROOM / (os.cpu_count() or 1))) as made:
        yield made


class Stage:
    """The machines of one setup."""

    def __init__(self, copper: Copper, micro: str) -> None:
        self._copper, self._micro = copper, micro
        self._setup: str | None = None
        self._before: object = None

    def set(self, row: Row) -> None:
        """Has the machines that a row is for: those of the row before, when neither changes them."""
        if not row.asks or row.setup != self._setup:
            self.clear()
            self._copper.boot(CLUSTER, self._micro)
            # its clones stay behind: what follows is for the master
            setup = f"{{ {row.setup}\n}} >/dev/null 2>/tmp/setup </dev/null\necho $t >/tmp/t\n"
            setup += "gc ismaster || exec sleep 10000\n" if "clone" in row.setup else ""
            if row.setup:
                self._copper.sh(f"{CLUSTER}-0", setup)
            if row.asks:
                self._setup, self._before = row.setup, self._there()

    def clear(self) -> None:
        """Ends them, as the rows that shared them must have left them."""
        if self._setup is not None:
            assert self._there() == self._before
            self._setup = None
        if any(cluster.name == CLUSTER for cluster in self._copper.client.clusters()):
            self._copper.client.kill(CLUSTER)
            self._copper.client.delete(CLUSTER)

    def _there(self) -> object:
        return self._copper.vms(CLUSTER), self._copper.exec(f"{CLUSTER}-0", "gc", "lt")


@pytest.fixture(scope="module")
def stage(small: Copper, micro: str) -> Iterator[Stage]:
    """The machines of the row at hand."""
    made = Stage(small, micro)
    yield made
    made.clear()


@pytest.fixture
def cluster(small: Copper, stage: Stage, micro: str) -> str:
    """A virtual cluster's name; its master runs."""
    stage.clear()
    small.boot(CLUSTER, micro)
    return CLUSTER


def pattern(text: str) -> str:
    """A regular expression for a row's text."""
    parts = re.split(f"({'|'.join(VARYING)}|\\[12\\])", text)
    return "".join(VARYING.get(part, part if part == "[12]" else re.escape(part)) for part in parts)


@pytest.mark.parametrize("row", IN_ORDER, ids=lambda row: row.id)
def test_row(small: Copper, stage: Stage, row: Row) -> None:
    stage.set(row)
    ticket = "t=$(cat /tmp/t)\n" if "$t" in row.command else ""
    done = small.client.run(f"{CLUSTER}-{row.vm}", ["sh", "-c", ticket + row.command])
    out, err = done.stdout.decode(), done.stderr.decode()
    assert (done.status, err.count("\n")) == (row.exit, 1 if row.err else 0), (out, err)
    assert re.fullmatch(pattern(row.err), err), err
    assert re.fullmatch(pattern(row.out), out), out
    if row.left is not None:
        left = [f"{CLUSTER}-{vmid}" for vmid in row.left]
        assert sorted(status.name for status in small.client.statuses()) == left
        assert small.vms(CLUSTER) == left


def test_tables_as_json(small: Copper, cluster: str, micro: str) -> None:
    small.exec(f"{cluster}-0", "gc", "clone", "1")
    vms = json.loads(small.exec(f"{cluster}-1", "gc", "list", "--json"))
    columns = {"generation": 0, "parent": None, "state": "running", "host": vms[0]["host"]}
    assert vms == [
        {"vmid": 0, "address": "10.0.0.1", **columns},
        {"vmid": 1, "address": "10.0.0.2", **columns, "generation": 1, "parent": 0},
    ]
    (stat,) = json.loads(small.exec(f"{cluster}-1", "gc", "stat", "--json"))
    assert set(stat) == {"vmid", "nominal", "shared", "own"}
    assert (stat["vmid"], stat["nominal"]) == (1, 256 << 20)


def test_every_verb_has_rows(small: Copper, cluster: str) -> None:
    """Rows of success and of failure for each that `gc help` lists."""
    listed = re.findall(r"^  (\S+)", small.exec(f"{cluster}-0", "gc", "help"), re.M)
    for verb in set(listed) - {"generation", "help"}:
        rows = [row for row in ROWS if re.search(rf"gc {verb}\b", row.command)]
        assert {row.exit == 0 for row in rows} == {True, False}, verb


# a program whose agent is killed while it waits, one that finds nobody at its socket, and one of afterwards
AGENT_IS_KILLED = """
cat >/root/kill <<'END'
sleep 1
cd /root
mv /run/gridcentric/agent.sock /run/stale
export GRIDCENTRIC_SOCKET=/run/stale
agent=$(pidof gridcentric-agent)
kill -STOP $agent
{ gc vmid; echo $?; } >waited 2>&1 &
sleep 1
kill -KILL $agent
wait
{ gc vmid; echo $?; } >refused 2>&1
unset GRIDCENTRIC_SOCKET
until gc vmid >after; do sleep 0.1; done
echo done >>after
END
setsid sh /root/kill </dev/null >/dev/null 2>&1 &
"""


def test_an_agent_that_is_not_running(small: Copper, cluster: str) -> None:
    master = f"{cluster}-0"
    small.sh(master, AGENT_IS_KILLED)
    said, deadline = "", time.monotonic() + DEADLINE_S
    while not said.endswith("done\n"):
        assert time.monotonic() < deadline, said
        with contextlib.suppress(CopperError):  # nobody is there to take a command
            said = small.client.run(
                master, ["sh", "-c", "cd /root; cat waited refused after"]
            ).stdout.decode()
    assert said == (
        "gc: the agent went away before it answered\n111\n"
        "gc: the agent is not running: /run/stale: Connection refused\n111\n"
        "0\ndone\n"
    )
