"""Who may ask Copper for what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from copper.model.machine import Asked, Record

Role = Literal["admin", "user", "host"]
ROOT = "root"  # who speaks through the Unix socket: its file's permissions say who may


class Quota(Asked):
    """Most that a user's virtual clusters may have together, live or promised; None is no limit."""

    vms: int | None = Field(default=None, ge=0, le=1 << 20)
    cpus: int | None = Field(default=None, ge=0, le=1 << 20)
    memory_mib: int | None = Field(default=None, ge=0, le=1 << 30, description="as reserved")


class NewUser(Asked):
    name: str
    role: Literal["admin", "user"] = "user"
    quota: Quota = Quota()


class UserChange(Asked):
    """What is given changes; a quota is replaced as a whole."""

    role: Literal["admin", "user"] | None = None
    quota: Quota | None = None


class User(Record):
    name: str
    role: Role
    quota: Quota = Quota()
    created: float = Field(description="seconds since 1970")


class NewToken(Asked):
    expires_in_s: float | None = Field(
        default=90 * 86400, gt=0, le=3650 * 86400, description="None: never"
    )
    note: str = Field(default="", max_length=200)


class Token(Record):
    """A token without its secret. Only the secret's hash is stored."""

    id: str
    user: str
    note: str = ""
    created: float
    expires: float | None = Field(description="seconds since 1970")


class IssuedToken(Token):
    """The one answer that has the secret."""

    secret: str


class Principal(Record):
    """Who a request comes from, once that is known."""

    name: str
    role: Role

    @property
    def sees_all(self) -> bool:
        return self.role != "user"
