"""Every call of the guest API through every binding, over the real agent: what is asked, what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.model.errors import BadInput, CopperError, NoRoom, NotFound, Refused, TimedOut
from tests.unit.bindings import BINDINGS, Driver, agent, running_driver
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, TICKET, Guest

TICKETS = [
    {"id": TICKET, "status": "granted", "cpus": 4, "vms": 2, "mincpuspervm": 2},
    {"id": TICKET[:-1] + "F", "status": "used", "cpus": 1, "vms": 1, "mincpuspervm": 1},
]
CLONES = [{"vmid": 4, "ip": "10.0.0.5", "state": "running"}, {"vmid": 5, "ip": "", "state": "dead"}]
VMS = [
    {"vmid": 0, "address": "10.0.0.1", "generation": 0, "parent": None, "state": "running"},
    {"vmid": 12, "address": "10.0.0.13", "generation": 1, "parent": 0, "state": "starting"},
]
for _vm in VMS:
    _vm["host"] = 'hôte "1" \\ 虫😀'
MEMORY = [{"vmid": 3, "nominal": 1 << 40, "shared": 536870912, "own": 0}]
JOINED = [
    {"vmid": 4, "status": 0, "file": "aGVsbG8="},
    {"vmid": 5, "status": 255, "file": ""},
    {"vmid": 6, "status": -1, "file": None},
    {"vmid": 7, "status": 7},
]
JOINED_VALUE = [
    {"vmid": 4, "status": 0, "file": "hello"},
    {"vmid": 5, "status": 255, "file": ""},
    {"vmid": 6, "status": -1, "file": None},
    {"vmid": 7, "status": 7, "file": None},
]

# the line, the verb and arguments that the host is asked, its result, the value that the program gets
Row = tuple[str, str, dict[str, Any], dict[str, Any], Any]
CALLS: list[Row] = [
    (
        "request_ticket 4 1 2 1000",
        "request-ticket",
        {"maxcpus": 4, "minvms": 1, "mincpuspervm": 2, "timeout_ms": 1000},
        {"ticket": TICKET},
        TICKET,
    ),
    (f"clone {TICKET}", "clone", {"ticket": TICKET}, {"vmid": 0, "vmids": [4, 5]}, 0),
    ("clone 9", "clone", {"count": 9}, {"vmid": 0, "vmids": [4]}, 0),
    ("list_tickets", "list-tickets", {}, {"tickets": TICKETS}, TICKETS),
    (
        f"list_ticket_domains {TICKET}",
        "list-ticket-domains",
        {"ticket": TICKET},
        {"clones": CLONES},
        CLONES,
    ),
    (
        f"list_ticket_domains {TICKET}",
        "list-ticket-domains",
        {"ticket": TICKET},
        {"clones": []},
        [],
    ),
    ("list", "list", {}, {"vms": VMS}, VMS),
    ("stat", "stat", {}, {"vms": MEMORY}, MEMORY),
    (f"sync {TICKET} 50", "sync", {"ticket": TICKET, "timeout_ms": 50}, {}, None),
    ("sync", "sync", {}, {}, None),
    (f"join_wait {TICKET}", "join-wait", {"ticket": TICKET}, {"clones": JOINED}, JOINED_VALUE),
    (
        f"join_wait {TICKET} 0",
        "join-wait",
        {"ticket": TICKET, "timeout_ms": 0},
        {"clones": []},
        [],
    ),
    ("kill 1 2", "kill", {"vmids": [1, 2]}, {"vmids": [1, 2]}, None),
    ("kill_generation 1", "kill-generation", {"vmid": 1}, {"vmids": [1, 2]}, None),
    ("killall", "killall", {}, {"vmids": []}, None),
]


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with agent() as guest:
        yield guest


@pytest.fixture(params=BINDINGS)
async def driver(request: pytest.FixtureRequest, guest: Guest) -> AsyncIterator[Driver]:
    async with running_driver(request.param, guest.socket_path) as driver:
        yield driver


class Host:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.was_asked = asyncio.Event()
        self.result: dict[str, Any] | Exception = {}

    async def __call__(self, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        if verb == "join-collected":
            return {}  # the agent's own word that an answer arrived
        self.asked.append((verb, args))
        self.was_asked.set()
        if verb == "list-tickets" and self.asked[0][0] == "request-ticket":
            return {"tickets": TICKETS}  # a binding whose tickets tell what they hold
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def test_each_call_asks_and_answers(guest: Guest, driver: Driver) -> None:
    host = Host()
    await guest.session(IDENTITY, host)
    for line, verb, args, result, value in CALLS:
        host.asked, host.result = [], result
        assert await driver.value(line) == value, line
        assert host.asked[0] == (verb, args)


async def test_who_this_vm_is(guest: Guest, driver: Driver) -> None:
    port = await guest.session(MASTER)
    lines = ("vmid", "ismaster", "generation", "my_ip")
    assert [await driver.value(line) for line in lines] == [0, True, 0, "10.0.0.1"]
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)
    assert [await driver.value(line) for line in lines] == [3, False, 1, "10.0.0.4"]
    await port.begin({**IDENTITY, "net": None}, "resume", deadline=DEADLINE)
    assert await driver.value("my_ip") == ""


async def test_a_thousand_machines_are_listed(guest: Guest, driver: Driver) -> None:
    many = [{**VMS[1], "vmid": vmid} for vmid in range(1024)]
    host = Host()
    host.result = {"vms": many}
    await guest.session(IDENTITY, host)
    assert await driver.value("list") == many


@pytest.mark.parametrize("line", [f"clone {TICKET}", "clone 2"])
async def test_a_clone_returns_in_the_clone_with_its_own_number(
    guest: Guest, driver: Driver, line: str
) -> None:
    calls: asyncio.Queue[int] = asyncio.Queue()

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        await calls.put(call)
        await asyncio.get_running_loop().create_future()  # the fork takes this call's answer over
        raise AssertionError

    port = await guest.session(MASTER, on_call)
    await driver.send(line)
    call = await calls.get()
    await port.begin({**IDENTITY, "vmid": 5}, "clone", call, deadline=DEADLINE)
    assert (await driver.answer())["value"] == 5
    assert await driver.value("vmid") == 5


@pytest.mark.parametrize(
    ("error", "errno"),
    [
        (NoRoom("no room for 9 clones: 3 fit"), 16),
        (NotFound("there is no such ticket"), 2),
        (Refused("not this VM"), 1),
        (BadInput("clone: no"), 22),
        (TimedOut("late: 2 are missing"), 110),
        (CopperError("the host side failed"), 5),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_the_host_refuses_is_its_errno_and_its_words(
    guest: Guest, driver: Driver, error: CopperError, errno: int
) -> None:
    host = Host()
    host.result = error
    await guest.session(IDENTITY, host)
    for line in ("clone 9", f"sync {TICKET} 9", "request_ticket 1 1 1 1", "join 3", "list"):
        found, message = await driver.failure(line)
        assert found == errno, line
        assert str(error) in message


async def test_long_results_of_clones_come_in_pages(guest: Guest, driver: Driver) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        if verb == "join-collected":
            return {}
        assert args.pop("ticket") == TICKET
        assert args.pop("timeout_ms") == 5
        pages = {None: (JOINED[:2], 5), 5: (JOINED[2:3], 6), 6: (JOINED[3:], None)}
        clones, after = pages[args.pop("after", None)]
        assert not args
        return {"clones": clones} if after is None else {"clones": clones, "next": after}

    await guest.session(IDENTITY, on_call)
    assert await driver.value(f"join_wait {TICKET} 5") == JOINED_VALUE


async def test_a_clone_that_joins_goes_no_further(guest: Guest, driver: Driver) -> None:
    host = Host()
    await guest.session(IDENTITY, host)
    await driver.send("join 7 hello")
    await host.was_asked.wait()
    with pytest.raises(TimeoutError):
        await driver.answer(deadline=0.5)
    assert host.asked == [("join", {"status": 7, "report": True, "file": "aGVsbG8="})]
    driver.kill()


async def test_a_clone_that_joins_without_report(guest: Guest, driver: Driver) -> None:
    host = Host()
    await guest.session(IDENTITY, host)
    await driver.send("join_noreport")
    await host.was_asked.wait()
    with pytest.raises(TimeoutError):
        await driver.answer(deadline=0.5)
    assert host.asked == [("join", {"status": 0, "report": False})]
    driver.kill()


WRONG = [  # and what the message must name
    ("request_ticket 0 1 1 1", "maxcpus from 1 to"),
    ("request_ticket 1 0 1 1", "minvms from 1 to"),
    ("request_ticket 1 1 -3 1", "mincpuspervm from 1 to"),
    ("request_ticket 1 1 1 -1", "timeout"),
    ("clone 0", "count from 1 to 1024"),
    ("clone 1025", "count from 1 to 1024"),
    ("clone -1", "count from 1 to 1024"),
    ("clone soon", "uuid"),
    (f"clone {TICKET[:-1]}", "uuid"),
    (f"clone {TICKET[:-1]}g", "uuid"),
    ("list_ticket_domains x", "uuid"),
    (f"sync {TICKET} -5", "timeout"),
    ("sync x 5", "uuid"),
    ("join 256", "status from 0 to 255"),
    ("join -1", "status from 0 to 255"),
    ("join 0 " + "x" * 49153, "49152"),
    (f"join_wait {TICKET} -5", "timeout"),
    ("join_wait x", "uuid"),
    ("kill", "from 1 to 1024"),
    ("kill 1 -1", "vmid"),
    ("kill_generation -1", "vmid from 0 to"),
]
OWN_KINDS = {
    "python": {"BadArgument"},
    "java": {"BadArgumentException"},
    "node": {"TypeError", "RangeError"},
}


async def test_a_wrong_argument_is_named_and_never_sent(guest: Guest, driver: Driver) -> None:
    await guest.session()
    kinds = OWN_KINDS.get(driver.binding.replace("aio", "python").partition("-")[0], {None})
    for line, named in WRONG:
        answer = await driver.ask(line)
        assert answer.get("errno") == 22, (line, answer)
        assert "expected" in answer["message"]
        assert named in answer["message"].lower(), line
        assert answer.get("kind") in kinds
