"""SSH keys as OpenSSH writes them: Ed25519 only (RFC 8032; the files: OpenSSH's PROTOCOL.key)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from pydantic import Field

from copper.model.machine import Record

KIND = b"ssh-ed25519"
SECRET_BYTES = 32
_LINE = 70  # characters of base64 in a line of a private key's file
# 51 bytes in base64, of which the first 19 say what it is
_PUBLIC = re.compile(r"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}")

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_Point = tuple[int, int, int, int]  # X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


class LoginKey(Record):
    """The key pair that the VMs of a virtual cluster log in to each other with, as OpenSSH's files have it."""

    private_key: str = Field(repr=False, description="the file's text")
    public_key: str = Field(description='"ssh-ed25519 AAAA… COMMENT"')


def is_public_key(text: str) -> bool:
    """Whether this is a public key as in known_hosts, and nothing else: a guest may say anything."""
    return _PUBLIC.fullmatch(text) is not None


def public_key_of(public: bytes) -> str:
    """As in known_hosts: the kind, and 32 bytes of key."""
    return f"{KIND.decode()} {base64.b64encode(_packed(KIND, public)).decode()}"


def login_key_of(secret: bytes, comment: str) -> LoginKey:
    """The key pair of 32 random bytes, without a passphrase."""
    public = _public_of(secret)
    texts = [KIND, public, secret + public, comment.encode()]
    private = bytes(8) + _packed(*texts)  # twice the same number, which shows a wrong passphrase
    private += bytes(range(1, 1 + -len(private) % 8))
    file = b"openssh-key-v1\0" + _packed(b"none", b"none", b"") + (1).to_bytes(4, "big")
    text = base64.b64encode(file + _packed(_packed(KIND, public), private)).decode()
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    lines = ["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""]
    return LoginKey(
        private_key="\n".join(lines), public_key=f"{public_key_of(public)} {comment}".rstrip()
    )


def known_hosts_line(names: Iterable[str], key: str) -> str:
    """One line of known_hosts, without its end."""
    return f"{','.join(names)} {key}"


def _packed(*texts: bytes) -> bytes:
    """Texts with their lengths ahead, one after the other."""
    return b"".join(len(text).to_bytes(4, "big") + text for text in texts)


def _public_of(secret: bytes) -> bytes:
    """RFC 8032, 5.1.5. Not in constant time: it is done once, where nobody measures it."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    number = int.from_bytes(hashlib.sha512(secret).digest()[:32], "little")
    number = number & ((1 << 254) - 8) | (1 << 254)
    x, y, z, _ = _times(number, (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P))
    inverse = pow(z, -1, _P)
    return ((y * inverse % _P) | ((x * inverse % _P & 1) << 255)).to_bytes(32, "little")


def _times(number: int, point: _Point) -> _Point:
    result: _Point = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = _plus(result, point)
        point = _plus(point, point)
        number >>= 1
    return result


def _plus(one: _Point, other: _Point) -> _Point:
    """RFC 8032, 5.1.4."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P
