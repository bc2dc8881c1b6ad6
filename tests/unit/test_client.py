"""The client: typed answers, errors of the right class, and streams that lose nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from copper.client import Client
from copper.client.http import NotRunning
from copper.client.problems import error_of, error_of_errno
from copper.client.streams import Lost
from copper.model.errors import (
    BadInput,
    Conflict,
    CopperError,
    NoRoom,
    NotFound,
    Refused,
    TimedOut,
    all_errors,
)
from copper.model.settings import Settings
from copper.wire.problems import to_problem
from tests.unit.fake_api import fake_copper


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[Client, dict[str, bytes]]]:
    with fake_copper() as (environment, files):
        yield Client(Settings(run_dir=Path(environment["COPPER_RUN_DIR"]))), files


@pytest.fixture
def client(fake: tuple[Client, dict[str, bytes]]) -> Client:
    return fake[0]


def test_answers_are_typed(client: Client) -> None:
    assert client.health().version == "0.1.0"
    assert [cluster.name for cluster in client.clusters()] == ["demo", "empty"]
    assert client.cluster("demo").shape.memory_bytes == 256 << 20
    assert client.create("new", "micro", memory_mib=64, cpus=1).name == "new"
    assert client.boot("empty").name == "empty-0"
    assert client.kill("demo") == ["demo-0", "demo-1", "demo-2"]
    client.delete("empty")
    assert [vm.parent for vm in client.vms("demo")] == [None, 0, 0]
    assert client.vms() == client.vms("demo")
    assert client.vm("demo-2").reason == "it crashed"
    assert client.status("demo-1").identity.ip == "10.0.0.2"
    assert [status.name for status in client.statuses()] == ["demo-0", "demo-1"]
    assert client.facts().cpus == 4
    assert client.images()[0].users == ["demo"]
    assert client.log("demo-0") == b"boot\r\nlogin: "


@pytest.mark.parametrize("kind", all_errors().values(), ids=lambda kind: kind.code)
def test_every_problem_becomes_the_error_that_it_was(kind: type[CopperError]) -> None:
    import json

    error = error_of(kind.http_status, json.dumps(to_problem(kind("why", advice="do"))).encode())
    assert (type(error), error.message, error.advice) == (kind, "why", "do")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, b"", NotFound, "Copper answered with the HTTP status 404"),
        (409, b'{"code": "newer", "detail": "why"}', Conflict, "why"),
        (500, b"\xff", CopperError, "Copper answered with the HTTP status 500"),
        (418, b"[]", CopperError, "Copper answered with the HTTP status 418"),
        (507, b'{"detail": null}', NoRoom, "Copper answered with the HTTP status 507"),
    ],
)
def test_answers_of_a_newer_or_broken_server(
    status: int, body: bytes, kind: type[CopperError], message: str
) -> None:
    error = error_of(status, body)
    assert (type(error), error.message) == (kind, message)


@pytest.mark.parametrize(("errno", "kind"), [(2, NotFound), (13, Refused), (28, NoRoom)])
def test_errnos_of_a_guest(errno: int, kind: type[CopperError]) -> None:
    assert type(error_of_errno(errno, "x")) is kind


def test_names_are_checked_before_anything_is_sent() -> None:
    nowhere = Client(Settings(run_dir=Path("/nowhere")))
    for ask in (
        lambda: nowhere.cluster("a/b"),
        lambda: nowhere.vms("../x"),
        lambda: nowhere.vm("demo"),
        lambda: nowhere.create("a", "B"),
        lambda: nowhere.delete_image(""),
        lambda: nowhere.run("x", ["ls"]),
    ):
        with pytest.raises(BadInput):
            ask()
    with pytest.raises(NotRunning, match="Copper does not run here"):
        nowhere.clusters()
    with pytest.raises(NotRunning):
        nowhere.run("demo-0", ["ls"])


@pytest.fixture
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, socket.socket]]:
    """A socket on which something listens that is no Copper."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cu-") as folder, socket.socket(socket.AF_UNIX) as sock:
        settings = Settings(run_dir=Path(folder))
        sock.bind(str(settings.api_socket))
        sock.listen(4)
        yield Client(settings), sock


def test_a_server_that_says_nothing(silent: tuple[Client, socket.socket]) -> None:
    with pytest.raises(TimedOut, match="no answer from Copper within 0 s"):
        silent[0].health(timeout_s=0.05)


@pytest.mark.parametrize(
    "words", [b"", b"hello\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_server_that_breaks_off(words: bytes, silent: tuple[Client, socket.socket]) -> None:
    client, sock = silent

    def answer() -> None:
        for _ in range(2):
            connection, _ = sock.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(words)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(CopperError, match="the connection to Copper was lost"):
        client.health()
    with pytest.raises(CopperError, match=r"the connection to Copper was lost|HTTP status 200"):
        client.run("demo-0", ["ls"])
    thread.join()


def test_commands_run_to_their_end(client: Client) -> None:
    assert client.run("demo-0", ["exit", "3"]).status == 3
    assert client.run("demo-0", ["signalled", "9"]).status == 137
    said = client.run("demo-0", ["say", "out", "err"])
    assert (said.stdout, said.stderr) == (b"out", b"err")
    absent = client.run("demo-0", ["nosuch"])
    assert (absent.status, absent.stderr) == (127, b"No such file or directory")
    data = bytes(range(256)) * 20_000
    assert client.run("demo-0", ["cat"], stdin=data).stdout == data
    assert len(client.run("demo-0", ["deaf"], stdin=data).stdout) == (1 << 22) + len(data)
    with pytest.raises(NotFound):
        client.run("demo-9", ["ls"])
    with pytest.raises(Lost, match="going down"):
        client.run("demo-0", ["lose"])


def test_waiting_for_a_message_has_an_end(client: Client) -> None:
    with client.stream("demo-0", "exec") as stream:
        stream.tell({"argv": ["wait"], "env": {}, "cwd": "/", "tty": None})
        assert stream.receive(30) == {"type": "started", "pid": 7}
        assert stream.receive(30) == b"\x01waiting\n"
        with pytest.raises(TimeoutError):
            stream.receive(0.01)
        assert stream.tell({"type": "signal", "signal": 2})
        assert stream.receive(30) == {"type": "exit", "signal": 2}
        with pytest.raises(Lost):
            stream.receive(30)
        assert not stream.send(b"more")


def test_files_go_and_come(fake: tuple[Client, dict[str, bytes]], tmp_path: Path) -> None:
    client, files = fake
    (tmp_path / "a").write_bytes(b"data" * 50_000)
    client.push("demo-0", tmp_path / "a", "/root/a")
    client.pull("demo-0", "/root/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == files["/root/a"] == (tmp_path / "a").read_bytes()
    with pytest.raises(NotFound, match="no file"):
        client.push("demo-0", tmp_path / "c", "/root/c")
    with pytest.raises(NotFound):
        client.pull("demo-0", "/root/b", tmp_path / "c")
    with pytest.raises(NoRoom):
        client.push("demo-0", tmp_path / "a", "/full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
