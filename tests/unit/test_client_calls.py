"""How the client asks: once in effect, page by page, in order, and with records for answers."""

from __future__ import annotations

import io
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from copper.client import Client, caller, events
from copper.client.http import Broken, NotRunning
from copper.client.target import Target
from copper.model.api import Limits
from copper.model.errors import CopperError, TimedOut, TooOld
from copper.model.settings import Settings
from copper.wire.problems import to_problem
from tests.unit import fake_bodies
from tests.unit.fake_api import SENT, fake_copper


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with fake_copper() as (environment, _):
        yield Client(Settings(run_dir=Path(environment["COPPER_RUN_DIR"])))


def test_listings_follow_their_pages(client: Client) -> None:
    SENT.clear()
    assert [vm.vmid for vm in client.vms("demo")] == [0, 1, 2]
    assert [sent.query.get("after") for sent in SENT] == [None, "demo-1"]
    assert {sent.query["cluster"] for sent in SENT} == {"demo"}
    SENT.clear()
    one_by_one = client.iter_vms()
    assert next(one_by_one).name == "demo-0"
    assert len(SENT) == 1  # the next page is asked for when it is needed


def test_a_raw_client_answers_with_the_api_s_json(client: Client) -> None:
    assert client.raw.vms() == list(fake_bodies.VMS.values())
    assert client.raw.cluster("demo") == fake_bodies.CLUSTERS["demo"]
    assert client.raw.boot("empty", wait=False) == fake_bodies.OPERATIONS["op-1"]
    assert client.call("GET", "/v1/vms/demo-0") == fake_bodies.VMS["demo-0"]
    assert client.cluster("demo").name == "demo"


def test_what_is_not_waited_for_is_an_operation(client: Client) -> None:
    operation = client.boot("empty", wait=False)
    assert (operation.id, operation.state) == ("op-1", "running")
    assert client.wait_operation("op-3").problem is not None
    with pytest.raises(TimedOut):
        client.wait_operation("op-1", timeout_s=0.05)


def test_records_go_into_bodies(client: Client) -> None:
    client.create("new", "micro", limits=Limits(vms=3))
    assert SENT[-1].body["limits"] == {"vms": 3, "cpus": None, "memory_mib": None}
    assert "requires" not in SENT[-1].body


def test_an_answer_of_another_version_is_an_error(client: Client) -> None:
    with pytest.raises(CopperError, match=r"Copper's answer is no Cluster: .*versions"):
        client.cluster("newer")


def test_each_change_has_a_key_of_its_own(client: Client) -> None:
    SENT.clear()
    for _ in range(2):
        client.create_token("ann")
    client.users()
    one, other, read = SENT
    assert one.headers["idempotency-key"] != other.headers["idempotency-key"]
    assert "idempotency-key" not in read.headers


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@contextmanager
def a_server(*answers: bytes) -> Iterator[tuple[Client, list[str]]]:
    """A server that says one of these on each connection and then hangs up, and what it heard.

    No answer but the connection's end is b"".
    """
    heard: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cu-") as folder:
        path = Path(folder, "api.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(path))
            sock.listen(8)

            def serve() -> None:
                for answer in answers:
                    connection, _ = sock.accept()
                    with connection:
                        heard.append(request_on(connection))
                        connection.sendall(answer)
                sock.close()  # whoever comes now finds nobody

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            try:
                yield Client(Target(socket=path)), heard
            finally:
                thread.join(30)
                assert not thread.is_alive(), "fewer connections came than were expected"


def request_on(connection: socket.socket) -> str:
    """All of one request."""
    text = ""
    while True:
        text += connection.recv(65536).decode()
        head, end, body = text.partition("\r\n\r\n")
        if end and len(body) >= int(header(head, "content-length") or 0):
            return text


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two attempts."""
    monkeypatch.setattr(caller, "REPEATS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(events, "AGAIN_S", (0.0, 0.0))


def answer(body: object) -> bytes:
    text = json.dumps(body).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(text) + text


def header(request: str, name: str) -> str | None:
    lines = [line.partition(": ") for line in request.split("\r\n")]
    return next((value for key, _, value in lines if key.lower() == name), None)


def test_a_change_is_asked_for_again_with_the_same_key(at_once: None) -> None:
    user = fake_bodies.USERS["ann"]
    cut_short = OK + b"Content-Length: 99\r\n\r\n{"
    with a_server(b"", cut_short, answer(user)) as (client, heard):
        assert client.create_user("ann").name == "ann"
    assert len(heard) == 3
    assert len({header(request, "idempotency-key") for request in heard}) == 1


def test_it_is_not_asked_for_without_end(at_once: None) -> None:
    with a_server(b"", b"", b"", b"") as (client, heard):
        with pytest.raises(Broken, match="the connection to Copper was lost"):
            client.create_user("ann")
    assert len(heard) == 4


def test_a_copper_that_ended_meanwhile_may_come_back(at_once: None) -> None:
    with a_server(b"") as (client, heard):
        with pytest.raises(Broken):  # and not that it does not run: it may have done it
            client.create_user("ann")
    assert len(heard) == 1


def test_what_nobody_heard_of_is_not_repeated(at_once: None) -> None:
    with pytest.raises(NotRunning):
        Client(Target(socket=Path("/nowhere/api.sock"))).create_user("ann")


def test_an_error_is_not_repeated(at_once: None) -> None:
    refused = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
    with a_server(refused) as (client, heard):
        with pytest.raises(CopperError, match="status 500"):
            client.create_user("ann")
    assert len(heard) == 1


def test_what_only_reads_is_asked_once(at_once: None) -> None:
    with a_server(b"") as (client, heard):
        with pytest.raises(Broken):
            client.users()
    assert len(heard) == 1


# events


def change(number: int) -> bytes:
    body = {**fake_bodies.CHANGES[0], "id": f"{number}.0"}
    return f"id: {number}.0\ndata: {json.dumps(body)}\n\n".encode()


def test_events_go_on_where_they_were(at_once: None) -> None:
    begun = STREAM + b": copper\nid: 6\n\n"
    half = change(9)[:40]
    with a_server(
        begun,  # a position and nothing else
        STREAM + change(7) + change(8) + half,
        b"",
        STREAM + b": still here\nid: 20\n\n",
        STREAM + change(21),
    ) as (client, heard):
        following = client.events("demo")
        assert [next(following).id for _ in range(3)] == ["7.0", "8.0", "21.0"]
    after = [header(request, "last-event-id") for request in heard]
    assert after == [None, "6", "8.0", "8.0", "20"]
    assert {request.split()[1] for request in heard} == {"/v1/events?cluster=demo"}


def test_events_that_break_off_before_their_position_are_an_error(at_once: None) -> None:
    for said in (b"", STREAM, STREAM + b"id: 6\n"):
        with a_server(said) as (client, _):
            with pytest.raises(Broken):
                client.events()


def test_events_end_when_nobody_is_there_for_too_long(at_once: None) -> None:
    with a_server(STREAM + change(7)) as (client, _):
        following = client.events(after="6.0", patience_s=0.1)
        assert next(following).id == "7.0"
        with pytest.raises((Broken, NotRunning)):
            next(following)


def test_what_was_forgotten_is_an_error_and_nothing_is_skipped(at_once: None) -> None:
    problem = json.dumps(to_problem(TooOld("forgotten", advice="list"))).encode()
    with a_server(
        STREAM + change(7) + b"event: error\ndata: " + problem + b"\n\n",
        b"HTTP/1.1 410 Gone\r\nContent-Length: %d\r\n\r\n" % len(problem) + problem,
    ) as (client, _):
        following = client.events(after="6.0")
        assert next(following).id == "7.0"
        with pytest.raises(TooOld, match="forgotten"):
            next(following)
        with pytest.raises(TooOld, match="forgotten"):
            client.events(after="1.0")


def test_events_in_any_form_that_the_standard_has() -> None:
    text = b": hello\n\nid:1\ndata: a\ndata:b\nretry: 5\n\nevent: error\r\ndata\r\n\r\ndata: cut"
    found = list(events.events_of(io.BytesIO(text)))
    assert [(one.id, one.name, one.data) for one in found] == [
        ("1", "", "a\nb"),
        (None, "error", ""),
    ]
