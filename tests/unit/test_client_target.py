"""Which Copper is spoken to: a socket or a URL, with a token, over TLS; and what goes wrong there."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import copper
from copper.client import Client
from copper.client.http import Broken, NotRunning
from copper.client.target import Target, from_environment, remote
from copper.model.errors import BadInput, CopperError, NotFound, Refused
from copper.model.settings import Settings
from tests.unit.fake_api import SECRET, SENT, serving


def listener() -> tuple[socket.socket, int]:
    """A socket on a free port of loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """The URL of a fake Copper on loopback."""
    sock, port = listener()
    with serving(sock, {}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An authority's certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=copper", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    return cert, key


@pytest.fixture(scope="module")
def secure(certificate: tuple[str, str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The URL of a fake Copper that speaks TLS, and the files in its VMs."""
    cert, key = certificate
    sock, port = listener()
    files: dict[str, bytes] = {}
    with serving(sock, files, ssl_certfile=cert, ssl_keyfile=key):
        yield f"https://127.0.0.1:{port}", files


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("http://127.0.0.1:7070", "127.0.0.1", 7070, False),
        ("http://localhost", "localhost", 80, False),
        ("http://[::1]:7070/", "::1", 7070, False),
        ("https://copper.example:7070", "copper.example", 7070, True),
        ("HTTPS://copper.example", "copper.example", 443, True),
    ],
)
def test_a_url_names_a_host_and_a_port(url: str, host: str, port: int, tls: bool) -> None:
    target = from_environment({"COPPER_URL": url, "COPPER_TOKEN": "t"})
    assert (target.host, target.port, target.tls, target.socket) == (host, port, tls, None)
    assert "token" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "copper.example",
        "copper.example:7070",
        "ftp://copper.example",
        "https://",
        "https://copper.example:x",
        "https://copper.example:99999",
        "https://copper.example/v1",
        "https://copper.example/?a=b",
        "https://me@copper.example",
        "https://a b",
        "https://[::1",
        "http://copper.example",
        "http://127.0.0.1.example",
        "http://10.0.0.1",
        "h" * 5000,
    ],
)
def test_a_bad_url_is_one_clear_line(url: str) -> None:
    with pytest.raises(BadInput, match=r"COPPER_URL=.*expected https://HOST:PORT") as error:
        from_environment({"COPPER_URL": url, "COPPER_TOKEN": "t"})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä"])
def test_a_url_needs_a_token(token: str) -> None:
    with pytest.raises(BadInput, match="COPPER_TOKEN"):
        from_environment({"COPPER_URL": "https://a", "COPPER_TOKEN": token})


def test_without_a_url_it_is_the_socket_of_this_machine(tmp_path: Path) -> None:
    target = from_environment({"COPPER_RUN_DIR": str(tmp_path), "COPPER_TOKEN": "unused"})
    assert target == Target(socket=tmp_path / "api.sock")


def test_the_client_of_the_package_is_the_environment_s(
    plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPER_URL", plain)
    monkeypatch.setenv("COPPER_TOKEN", SECRET)
    assert copper.Client is Client
    assert [vm.name for vm in copper.Client().vms()] == ["demo-0", "demo-1", "demo-2"]
    assert SENT[-1].headers["authorization"] == f"Bearer {SECRET}"
    # settings name the Copper of this machine, whatever the environment says
    with pytest.raises(NotRunning):
        Client(Settings(run_dir=Path("/nowhere"))).vms()
    assert not hasattr(copper, "nothing")


def test_a_token_that_is_not_accepted(plain: str) -> None:
    stranger = Client(remote(plain, "cu_x_y"))
    with pytest.raises(Refused, match=f"the token is not accepted by {plain}: who"):
        stranger.clusters()


def test_tls_with_an_authority_of_its_own(
    secure: tuple[str, dict[str, bytes]], certificate: tuple[str, str], tmp_path: Path
) -> None:
    url, files = secure
    client = Client(remote(url, SECRET, certificate[0]))
    assert client.cluster("demo").owner == "ann"
    # streams go the same way, with more in one read than TLS gives at once
    data = os.urandom(1 << 20)
    assert client.run("demo-0", ["cat"], stdin=data).stdout == data
    (tmp_path / "a").write_bytes(data)
    client.push("demo-0", tmp_path / "a", "/root/a")
    assert files["/root/a"] == data
    client.pull("demo-0", "/root/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    with pytest.raises(NotFound):
        client.run("demo-9", ["ls"])


def test_a_certificate_of_nobody_known_is_refused(secure: tuple[str, dict[str, bytes]]) -> None:
    client = Client(remote(secure[0], SECRET))
    for ask in (client.vms, lambda: client.run("demo-0", ["ls"])):
        with pytest.raises(Refused, match=r"certificate of .* not accepted: .*\(COPPER_CA=FILE"):
            ask()


def test_a_certificate_of_another_host_is_refused(
    secure: tuple[str, dict[str, bytes]], certificate: tuple[str, str]
) -> None:
    url = secure[0].replace("127.0.0.1", "localhost")
    with pytest.raises(Refused, match=r"not accepted: .*localhost"):
        Client(remote(url, SECRET, certificate[0])).vms()


def test_tls_where_there_is_none(plain: str) -> None:
    with pytest.raises(CopperError, match="does not speak TLS"):
        Client(remote(plain.replace("http:", "https:"), SECRET)).vms()


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file"):
        remote("https://127.0.0.1:1", SECRET, str(tmp_path / "none.pem"))
    (tmp_path / "bad.pem").write_text("nothing")
    sock, port = listener()
    with sock:
        sock.listen(1)
        with pytest.raises(BadInput, match="COPPER_CA="):
            Client(remote(f"https://127.0.0.1:{port}", SECRET, str(tmp_path / "bad.pem"))).vms()


def test_nobody_there() -> None:
    sock, port = listener()
    sock.close()
    with pytest.raises(NotRunning, match=f"nobody listens at http://127.0.0.1:{port}"):
        Client(remote(f"http://127.0.0.1:{port}", SECRET)).vms()


def test_a_server_that_is_cut_off_while_it_speaks_tls(certificate: tuple[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    sock, port = listener()
    sock.listen(1)

    def serve() -> None:
        connection = context.wrap_socket(sock.accept()[0], server_side=True)
        connection.recv(4096)
        connection.close()
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client = Client(remote(f"https://127.0.0.1:{port}", SECRET, certificate[0]))
    with pytest.raises(Broken, match="the connection to Copper was lost"):
        client.cluster("demo")
    thread.join()
