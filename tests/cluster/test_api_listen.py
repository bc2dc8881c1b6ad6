"""Where the API listens: what is refused before it begins, and that each way in is guarded."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import websockets

from copper.model.errors import BadInput, Conflict
from copper.model.settings import Settings
from copper.wire.serve import Address, Listener, address_of, serve, tcp_socket, unix_socket
from tests.cluster.front import Served, serving

HERE = "127.0.0.1"


def settings(listen: str, cert: str = "", key: str = "") -> Settings:
    return dataclasses.replace(Settings(), listen=listen, tls_cert=cert, tls_key=key)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for this machine's loopback address, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", f"subjectAltName=IP:{HERE},DNS:localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:7676", "127.0.0.1", 7676),
        ("127.9.9.9:1", "127.9.9.9", 1),
        ("[::1]:7676", "::1", 7676),
        ("localhost:0", "localhost", 0),
    ],
)
def test_loopback_needs_no_tls(listen: str, host: str, port: int) -> None:
    assert address_of(settings(listen)) == Address(host, port)


def test_nothing_is_listened_on_unless_it_is_asked_for() -> None:
    assert address_of(settings("")) is None


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "localhost.example.org:1"]
)
def test_any_other_address_needs_tls(listen: str, pair: tuple[str, str]) -> None:
    with pytest.raises(BadInput, match="needs TLS") as refused:
        address_of(settings(listen))
    assert "\n" not in str(refused.value)
    address = address_of(settings(listen, *pair))
    assert address is not None and str(address).startswith("https://")


@pytest.mark.parametrize("listen", ["7676", ":7676", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"])
def test_what_is_no_address_is_named(listen: str) -> None:
    with pytest.raises(BadInput, match="HOST:PORT"):
        address_of(settings(listen))


def test_wrong_files_are_one_clear_line(pair: tuple[str, str], tmp_path: Path) -> None:
    cert, key = pair
    text = tmp_path / "text.pem"
    text.write_text("no certificate\n")
    for files, says in {
        (cert, ""): "are needed both",
        ("", key): "are needed both",
        (cert, str(tmp_path / "none")): "COPPER_TLS_KEY=.*No such file",
        (str(tmp_path), key): "COPPER_TLS_CERT=.*directory",
        (str(text), key): "not a certificate and its key",
        (cert, str(text)): "not a certificate and its key",
        (key, cert): "not a certificate and its key",
    }.items():
        with pytest.raises(BadInput, match=says) as refused:
            address_of(settings("127.0.0.1:0", *files))
        assert "\n" not in str(refused.value)


def test_an_encrypted_key_is_refused_and_asks_nobody(pair: tuple[str, str], tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-in", pair[1], "-aes128", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(BadInput, match="not a certificate and its key"):
        address_of(settings("127.0.0.1:0", pair[0], str(locked)))


def test_an_address_that_is_taken_is_a_conflict() -> None:
    with tcp_socket(Address(HERE, 0)) as sock:
        with pytest.raises(Conflict, match="cannot listen at http://127"):
            with tcp_socket(Address(HERE, sock.getsockname()[1])):
                pass


@contextlib.asynccontextmanager
async def listening(
    served: Served, folder: Path, cert: str = "", key: str = ""
) -> AsyncIterator[tuple[Path, int]]:
    """Both listeners: the path of the one, and the port of the other."""
    end, ready = asyncio.Event(), asyncio.Event()
    path = folder / "api.sock"

    async def said() -> None:
        ready.set()

    with unix_socket(path) as unix, tcp_socket(Address(HERE, 0)) as tcp:
        address = Address(HERE, tcp.getsockname()[1], cert, key)
        listeners = [
            Listener(served.access.trusted(served.app), unix),
            Listener(served.access.guarded(served.app), tcp, address),
        ]
        task = asyncio.create_task(serve(listeners, said, end))
        await ready.wait()
        try:
            yield path, address.port
        finally:
            end.set()
            await task


async def test_the_socket_is_root_s_and_the_port_wants_a_token(tmp_path: Path) -> None:
    async with serving() as served, listening(served, tmp_path) as (path, port):
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        async with httpx2.AsyncClient(transport=transport, base_url="http://copper") as root:
            assert (await root.get("/v1/whoami")).json()["role"] == "admin"
        secret = await served.secret("bob")
        async with httpx2.AsyncClient(base_url=f"http://{HERE}:{port}") as client:
            assert (await client.get("/v1/whoami")).status_code == 401
            assert (await client.get("/v1/health")).status_code == 200
            bearer = {"authorization": f"Bearer {secret}"}
            assert (await client.get("/v1/whoami", headers=bearer)).json()["name"] == "bob"
    assert not path.exists()


async def test_tls_serves_the_same(tmp_path: Path, pair: tuple[str, str]) -> None:
    async with serving() as served, listening(served, tmp_path, *pair) as (_, port):
        trust = ssl.create_default_context(cafile=pair[0])
        secret = await served.secret("bob")
        async with httpx2.AsyncClient(
            base_url=f"https://{HERE}:{port}",
            verify=trust,
            headers={"authorization": f"Bearer {secret}"},
        ) as client:
            assert (await client.get("/v1/whoami")).json()["name"] == "bob"
        async with httpx2.AsyncClient() as plain:
            with pytest.raises(httpx2.HTTPError):
                await plain.get(f"http://{HERE}:{port}/v1/health")


async def test_a_websocket_is_refused_with_a_problem(tmp_path: Path) -> None:
    async with serving() as served, listening(served, tmp_path) as (_, port):
        secret = await served.secret("bob")
        for headers, status in (({}, 401), ({"authorization": f"Bearer {secret}"}, 404)):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with websockets.connect(
                    f"ws://{HERE}:{port}/host/v1/vms/a-0/exec", additional_headers=headers
                ):
                    pass
            assert refused.value.response.status_code == status
            assert b'"code":' in (refused.value.response.body or b"")


async def test_events_are_followed_over_a_connection(tmp_path: Path) -> None:
    async with serving() as served, listening(served, tmp_path) as (_, port):
        secret = await served.secret("bob")
        async with httpx2.AsyncClient(
            base_url=f"http://{HERE}:{port}", headers={"authorization": f"Bearer {secret}"}
        ) as client:
            async with client.stream("GET", "/v1/events?kind=cluster") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                lines = answer.aiter_lines()
                assert (await anext(lines)).startswith(":")
                await client.post("/v1/clusters", json={"name": "a", "image": "micro"})
                async for line in lines:
                    if line.startswith("data: "):
                        break
                assert '"name":"a"' in line
