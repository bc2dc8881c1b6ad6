"""The API's users. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from copper.client import check
from copper.client.caller import Caller, given

if TYPE_CHECKING:
    from copper.model.users import IssuedToken, Principal, Quota, Token, User


class UsersApi(Caller):
    """What can be asked about users. Every call may raise CopperError."""

    def whoami(self) -> Principal:
        """Who asks, as Copper knows it."""
        answer: Principal = self._ask("Principal", "GET", "/v1/whoami")
        return answer

    def users(self) -> list[User]:
        """The users."""
        return list(self.iter_users())

    def iter_users(self) -> Iterator[User]:
        """The same one by one, asked for page by page."""
        return self._pages("User", "/v1/users", {})

    def create_user(
        self, name: str, *, role: Literal["admin", "user"] = "user", quota: Quota | None = None
    ) -> User:
        """Makes a user."""
        answer: User = self._ask(
            "User",
            "POST",
            "/v1/users",
            body={"name": name, "role": role, **given(quota=quota)},
            keyed=True,
        )
        return answer

    def user(self, name: str) -> User:
        """One user; users may ask for themselves."""
        answer: User = self._ask("User", "GET", f"/v1/users/{check.a_part(name)}")
        return answer

    def change_user(
        self, name: str, *, role: Literal["admin", "user"] | None = None, quota: Quota | None = None
    ) -> User:
        """Sets a user's role or quota."""
        answer: User = self._ask(
            "User",
            "PATCH",
            f"/v1/users/{check.a_part(name)}",
            body=given(role=role, quota=quota),
            keyed=True,
        )
        return answer

    def delete_user(self, name: str) -> None:
        """Ends a user and all its tokens; it may own no virtual cluster."""
        self._ask("None", "DELETE", f"/v1/users/{check.a_part(name)}", keyed=True)

    def tokens(self, name: str) -> list[Token]:
        """A user's tokens, without their secrets; users may ask for their own."""
        return list(self.iter_tokens(name=name))

    def iter_tokens(self, name: str) -> Iterator[Token]:
        """The same one by one, asked for page by page."""
        return self._pages("Token", f"/v1/users/{check.a_part(name)}/tokens", {})

    def create_token(
        self, name: str, *, expires_in_s: float | None = 7776000, note: str = ""
    ) -> IssuedToken:
        """Issues a token; the answer is the only one that has its secret."""
        answer: IssuedToken = self._ask(
            "IssuedToken",
            "POST",
            f"/v1/users/{check.a_part(name)}/tokens",
            body={"expires_in_s": expires_in_s, "note": note},
            keyed=True,
        )
        return answer

    def revoke_token(self, name: str, id: str) -> None:
        """Ends a token at once; users may end their own."""
        self._ask(
            "None",
            "DELETE",
            f"/v1/users/{check.a_part(name)}/tokens/{check.a_part(id)}",
            keyed=True,
        )
