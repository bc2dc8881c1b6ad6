"""`gc` in real machines: what each verb prints, and its exit status."""

from __future__ import annotations

import json
import re

from tests.vm.machinery import Copper

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_a_ticket_from_its_request_to_its_clones(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    (own,) = re.findall(rf"^ticket ({UUID})$", copper.exec(master, "gc", "lt"), re.M)
    said = copper.exec(master, "gc", "rt", "3", "1", "1", "1000")
    assert re.fullmatch(rf"ticket {UUID}\n", said)
    # as scripts cut it
    clone = "t=$(gc rt 2 2 1 1000 | awk '{print $2}') && gc clone $t && gc ltd $t"
    lines = copper.sh(master, clone).splitlines()
    assert lines == [
        "0",
        *("vmid 1", "ip 10.0.0.2", "state running"),
        *("vmid 2", "ip 10.0.0.3", "state running"),
    ]
    held = copper.exec(master, "gc", "lt")
    assert held.count("ticket") == 3
    assert held.startswith(f"ticket {own}\n  status used\n")
    assert "  status granted\n  cpus 3\n  vms 3\n  mincpuspervm 1\n" in held
    assert len(re.findall(rf"^ticket {UUID}$", copper.exec("a-1", "gc", "lt"), re.M)) == 1


def test_what_cannot_be_had_is_said_by_the_exit_status(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    nobody = "00000000-0000-0000-0000-000000000000"
    for argv, status in [
        (["rt", "1", "1", "2", "0"], 22),
        (["rt", "2", "1", "2", "0"], 16),
        (["rt", "1000", "1000", "1", "0"], 16),
        (["rt", "0", "1", "1", "0"], 22),
        (["rt", "1"], 22),
        (["clone", nobody], 2),
        (["clone", "not-a-ticket"], 22),
        (["ltd", nobody], 2),
        (["kill", "0"], 1),
        (["kill", "7"], 2),
        (["kill", "x"], 22),
        (["kill-generation", "7"], 2),
        (["fly"], 22),
    ]:
        done = copper.client.run(master, ["gc", *argv])
        assert (done.status, done.stdout) == (status, b""), (argv, done)
        assert len(done.stderr.decode().strip().splitlines()) >= 1
    assert copper.vms("a") == [master]


def test_clones_are_ended_from_inside(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.clone(master, 3)
    copper.clone("a-1", 2)
    copper.exec(master, "gc", "kill", "2")
    assert copper.vms("a") == ["a-0", "a-1", "a-3", "a-4", "a-5"]
    assert len(copper.client.statuses()) == 5  # gone when it returns
    copper.exec("a-3", "gc", "kill-generation", "4")
    assert copper.vms("a") == ["a-0", "a-1", "a-3"]
    copper.exec(master, "gc", "killall")
    assert copper.vms("a") == [master]


def test_stat_adds_up(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.clone(master, 2)
    rows = json.loads(copper.exec("a-1", "gc", "stat", "--json"))
    assert [row["vmid"] for row in rows] == [1, 2]
    for row in rows:
        assert row["nominal"] == 256 << 20
        assert 0 < row["own"] < row["nominal"]
        assert 0 < row["shared"] < row["nominal"]
