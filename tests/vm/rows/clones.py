"""Rows of `gc` by which clones meet, and end: sync, join and the kinds of kill."""

from __future__ import annotations

from tests.vm.rows.row import FORK, NOBODYS, WORDS, Row, no_such, usage

ROWS = [
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
        setup="gc clone 2; gc ismaster && gc clone 1",
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
]
