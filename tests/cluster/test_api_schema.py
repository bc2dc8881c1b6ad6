"""Schemathesis over the whole API: whatever is sent, no 5xx, and answers are what the description says."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from copper.controller.api.document import document
from copper.controller.logins import new_login_key
from copper.controller.rows import (
    ClusterRow,
    NetworkRow,
    cluster_key,
    login_key,
    network_key,
    operation_key,
    ticket_key,
    vm_key,
)
from copper.model.operations import Operation
from copper.model.tickets import Ticket
from copper.openapi import described
from copper.wire.serve import Address, Listener, serve, tcp_socket
from tests.cluster.front import SHAPE, Served, serving, vm_of

EXAMPLES = 12  # of each operation and mode
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
]
API = document(described())
# a stream has no end, and host agents are not here
LEFT_OUT = ("/v1/events", "/host/")
OPERATIONS = [
    (method, path)
    for path, operations in API["paths"].items()
    if not path.startswith(LEFT_OUT)
    for method in operations
]
NEVER_GOOD = {
    ("delete", "/v1/images/{name}"),
    ("delete", "/v1/users/{name}/tokens/{id}"),
    ("delete", "/v1/clusters/{name}/forwards/{protocol}/{host_port}"),
}
NUMBERS = itertools.count()
ANSWERED: dict[tuple[str, str], set[int]] = {}  # the hundreds of the statuses


class Server:
    """The API behind a port, in a thread with a loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.served: Served | None = None
        self.admin = self.host = ""
        self.url = ""
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=[self._serve()])

    def __enter__(self) -> Server:
        self._thread.start()
        assert self.ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        self.loop.close()

    async def _serve(self) -> None:
        async with serving() as served:
            with tcp_socket(Address("127.0.0.1", 0)) as sock:
                self.served = served
                self.admin = await served.secret("admin", "admin")
                self.host = served.access.own_headers["authorization"].removeprefix("Bearer ")
                self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
                listener = Listener(served.access.guarded(served.app), sock)
                await serve([listener], self._said, self._end)

    async def _said(self) -> None:
        self.ready.set()

    def fill(self) -> None:
        """What the examples may have deleted is there again."""
        asyncio.run_coroutine_threadsafe(self._fill(), self.loop).result(10)

    async def _fill(self) -> None:
        assert self.served is not None
        row = ClusterRow(name="a", image="micro", shape=SHAPE, created=1.0)
        vms = [vm_of("a", vmid) for vmid in range(2)]
        ticket = Ticket(
            id="t", cluster="a", holder=0, cpus=1, vms=1, mincpuspervm=1, status="granted"
        )
        operation = Operation(
            id="o", kind="boot", cluster="a", owner="root", state="cancelled", created=1.0
        )
        put: dict[str, Any] = {
            cluster_key("a"): row,
            cluster_key("b"): row.model_copy(update={"name": "b"}),
        }
        put |= {vm_key(vm.name): vm for vm in vms}
        put[login_key("a")] = new_login_key("a")
        put |= {ticket_key("t"): ticket, operation_key("o"): operation}
        if self.served.book.find(network_key("net"), NetworkRow) is None:
            network = NetworkRow(name="net", pool=["203.0.113.1"], mode="nat", created=1.0)
            put[network_key("net")] = network
        await self.served.book.commit(put=put)
        await self.served.secret("bob")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


# what is there, by the folder that a path's parameter stands in
THERE = {
    "clusters": ["a", "b"],
    "vms": ["a-0", "a-1"],
    "tickets": ["t"],
    "operations": ["o"],
    "users": ["bob"],
    "hosts": ["here"],
    "images": ["micro"],
    "networks": ["net"],
}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_whatever_is_asked_the_answer_is_as_described(
    server: Server, method: str, path: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(API)
    operation = schema[path][method.upper()]
    described_one = API["paths"][path][method]
    if mode is GenerationMode.NEGATIVE and not {"parameters", "requestBody"} & set(described_one):
        pytest.skip("there is nothing that could be wrong")
    there = THERE.get(path.split("/")[2], [])
    names = st.sampled_from([*there, *there, None] if there else ["", None])
    secret = server.host if described_one["x-roles"] == ["host"] else server.admin

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        name=names,
        keyed=st.booleans(),
    )
    def ask(case: Any, name: str | None, keyed: bool) -> None:
        server.fill()
        if name is not None:
            aim(case, name)
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                number = next(NUMBERS)
                fresh: dict[str, Any] = {"name": f"n{number}", "vm": "a-0", "bridge": ""}
                fresh |= {"pool": [f"2001:db8::{number:x}"], "host_port": 1024 + number}
                fresh |= {"egress": "none", "vmid": 0, "port": 80}
                if path.endswith("/clone") and not case.body:
                    case.body["count"] = (
                        1  # one of the two must be there, which a schema cannot say
                    )
                case.body.update({part: fresh[part] for part in fresh if part in case.body})
        if not keyed:  # most keys that are drawn have been used before
            case.headers.pop("Idempotency-Key", None)
        answer = case.call_and_validate(
            base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, checks=CHECKS
        )
        assert "Traceback" not in answer.text
        ANSWERED.setdefault((method, path), set()).add(answer.status_code // 100)

    ask()


def aim(case: Any, name: str) -> None:
    """Asks for something that is there."""
    for part in ("name", "id"):
        if name and part in (case.path_parameters or {}):
            case.path_parameters[part] = name
            break
    if "cluster" in (case.query or {}):
        case.query["cluster"] = "a"


def test_requests_were_good_ones_and_bad_ones() -> None:
    """What is only ever refused was not tested; nothing answers 207 or leads elsewhere."""
    if set(ANSWERED) != set(OPERATIONS):
        pytest.skip("not all of them were asked")
    never = {one for one, kinds in ANSWERED.items() if 2 not in kinds}
    assert never <= NEVER_GOOD
    assert sum(4 in kinds for kinds in ANSWERED.values()) > 30
    assert not [one for one, kinds in ANSWERED.items() if kinds - {2, 4}]
