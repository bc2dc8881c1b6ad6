"""SSH keys: what RFC 8032 and OpenSSH say they are, and what is none."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from copper.model.ssh import is_public_key, known_hosts_line, login_key_of, public_key_of
from copper.wire.messages import Ready, session

# RFC 8032, 7.1: secret and public key
VECTORS = {
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    ),
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    ),
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    ),
}


@pytest.mark.parametrize("secret", VECTORS)
def test_the_public_key_is_the_one_of_the_rfc(secret: str) -> None:
    key = login_key_of(bytes.fromhex(secret), "").public_key
    assert key == public_key_of(bytes.fromhex(VECTORS[secret]))
    assert base64.b64decode(key.split()[1])[-32:].hex() == VECTORS[secret]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
@pytest.mark.parametrize("comment", ["", "a", "demo", "x" * 63])
def test_openssh_reads_the_files(tmp_path: Path, comment: str) -> None:
    key = login_key_of(os.urandom(32), comment)
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(key.private_key)
    asked = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True
    )
    assert asked.stdout.strip() == key.public_key
    signed = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-f", str(file), "-n", "test"], input=b"x", check=True,
        capture_output=True,
    )  # fmt: skip
    (tmp_path / "allowed").write_text(f"somebody {key.public_key}\n")
    (tmp_path / "signature").write_bytes(signed.stdout)
    subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", tmp_path / "allowed", "-I", "somebody",
         "-n", "test", "-s", tmp_path / "signature"],
        input=b"x", check=True, capture_output=True,
    )  # fmt: skip


def test_a_secret_of_another_length_is_none() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        login_key_of(bytes(31), "")


def test_a_private_key_is_not_shown() -> None:
    key = login_key_of(os.urandom(32), "demo")
    assert "PRIVATE" in key.private_key
    assert "PRIVATE" not in f"{key!r} {key}"


GOOD = public_key_of(bytes(range(32)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "\n",
        f"{GOOD} comment",
        f"{GOOD}\nevil {GOOD}",
        GOOD[:-1],
        GOOD.replace("ssh-ed25519", "ssh-rsa"),
        GOOD.replace("AAAAC3", "AAAAB3"),
        "ssh-ed25519 " + "A" * 68,
    ],
)
def test_what_a_guest_says_that_is_no_key_is_none(text: str) -> None:
    assert not is_public_key(text)
    assert Ready("ready", 5, "1", 0, 0, text).host_key == ""


def test_a_key_that_a_guest_says_is_its() -> None:
    assert is_public_key(GOOD)
    assert Ready("ready", 5, "1", 0, 0, GOOD).host_key == GOOD
    assert known_hosts_line(["a-0", "10.0.0.1"], GOOD) == f"a-0,10.0.0.1 {GOOD}"


def test_a_login_key_goes_beside_the_identity_that_all_may_read() -> None:
    key = login_key_of(os.urandom(32), "demo").model_dump()
    message = session(5, {"vmid": 0, "login_key": key}, "boot", None, "")
    assert message["login_key"] == key
    assert message["identity"] == {"vmid": 0}
    assert "login_key" not in session(5, {"vmid": 0}, "boot", None, "")
