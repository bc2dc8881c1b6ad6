"""Rows of `gc` that say what is: who a machine is, what it costs, what the command can do, whether anybody answers."""

from __future__ import annotations

from tests.vm.rows.row import FORK, Row, usage

LIST = """\
vmid  address   generation  parent  state    host
0     10.0.0.1  0           -       running  <host>
1     10.0.0.2  1           0       running  <host>
2     10.0.0.3  1           0       running  <host>
3     10.0.0.4  1           0       running  <host>
"""
ROWS = [
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
