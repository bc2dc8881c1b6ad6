"""Rows of `gc` that ask for tickets, list them and fork on them."""

from __future__ import annotations

from tests.vm.rows.row import FORK, NOBODYS, WORDS, Row, no_such, usage

TICKET = "ticket <uuid>\n  status used\n  cpus 1\n  vms 1\n  mincpuspervm 1\n"
GRANTED = "ticket <uuid>\n  status granted\n  cpus 3\n  vms 3\n  mincpuspervm 1\n"
CLONES = "".join(f"vmid {vmid}\nip 10.0.0.{vmid + 1}\nstate running\n" for vmid in (1, 2, 3))
RT = "request-ticket MAXCPUS MINVMS MINCPUSPERVM TIMEOUT_MS"
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
]
