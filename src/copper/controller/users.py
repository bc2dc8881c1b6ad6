"""Users and their tokens. A token's secret is in the one answer that issues it, and nowhere else."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import secrets
from collections.abc import Iterator

from copper.controller.book import Book, now
from copper.controller.rows import TokenRow, token_key, user_key
from copper.model.errors import Conflict, NotFound, Refused
from copper.model.names import check_name
from copper.model.users import (
    ROOT,
    IssuedToken,
    NewToken,
    NewUser,
    Principal,
    Token,
    User,
    UserChange,
)
from copper.store.contract import Changed

TRIES = 10  # of a change that another one was faster than


class Users:
    """Who may ask, beside root, who is always there."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._owning: collections.Counter[str] = collections.Counter()

    def show(self, name: str) -> User:
        """Raises NotFound."""
        user = self._book.find(user_key(name), User)
        if user is None:
            raise NotFound(f"there is no user {name!r:.60}", advice="copper user list shows all")
        return user

    def all(self) -> list[User]:
        return self._book.all("users", User)

    async def create(self, new: NewUser) -> User:
        """Raises BadInput (the name), Conflict (it exists)."""
        check_name(new.name, "user")
        if new.name == ROOT:
            raise Conflict(f"user {ROOT!r} is who speaks through the Unix socket")
        user = User(name=new.name, role=new.role, quota=new.quota, created=now())
        key = user_key(new.name)
        try:
            await self._book.commit(expect={key: None}, put={key: user})
        except Changed:
            raise Conflict(f"user {new.name!r} exists") from None
        return user

    async def change(self, name: str, change: UserChange) -> User:
        """Sets what is given. A role counts from now on, for the tokens that are there too."""
        given = {field: value for field, value in change if value is not None}
        for _ in range(TRIES):
            await self._book.settled(user_key(name))
            before = self.show(name)
            after = before.model_copy(update=given)
            with contextlib.suppress(Changed):
                await self._book.commit(
                    expect={user_key(name): before}, put={user_key(name): after}
                )
                return after
        raise Conflict(f"user {name!r} is being changed")

    async def delete(self, name: str) -> None:
        """Ends all tokens of a user, at once. Raises Conflict while the user owns virtual clusters."""
        for _ in range(TRIES):
            await self._book.settled(user_key(name), *self._token_keys(name))
            user = self.show(name)
            owned = [row.name for row in self._book.clusters() if row.owner == name]
            if owned or self._owning[name]:
                what = ", ".join(owned[:5]) or "one that is being made"
                raise Conflict(
                    f"user {name!r} owns virtual clusters: {what}", advice="delete them first"
                )
            with contextlib.suppress(Changed):
                keys = [user_key(name), *self._token_keys(name)]
                await asyncio.shield(self._book.submit(expect={user_key(name): user}, delete=keys))
                return
        raise Conflict(f"user {name!r} is being changed")

    def _token_keys(self, name: str) -> list[str]:
        return [token_key(row.id) for row in self._rows(name)]

    def _rows(self, name: str) -> list[TokenRow]:
        return [row for row in self._book.all("tokens", TokenRow) if row.user == name]

    # owners

    @contextlib.contextmanager
    def owning(self, who: Principal, wanted: str | None) -> Iterator[str]:
        """Whose a new virtual cluster is; who that is cannot be deleted meanwhile.

        Raises Refused when a user names another, NotFound when there is no such user.
        """
        owner = who.name if wanted is None else wanted
        if owner != who.name and not who.sees_all:
            raise Refused(f"{who.name} may make virtual clusters of their own only")
        if owner != ROOT:
            self.show(owner)
        self._owning[owner] += 1
        try:
            yield owner
        finally:
            self._owning[owner] -= 1
            if not self._owning[owner]:
                del self._owning[owner]

    # tokens

    def tokens(self, name: str) -> list[Token]:
        """A user's tokens by their ids, those that have expired too. Raises NotFound."""
        if name != ROOT:
            self.show(name)
        return [shown(row) for row in self._rows(name)]

    async def issue(self, name: str, new: NewToken) -> IssuedToken:
        """The one time that a token's secret is told. Raises NotFound."""
        user = self.show(name)
        created = now()
        id = secrets.token_hex(8)
        token = Token(
            id=id,
            user=name,
            note=new.note,
            created=created,
            expires=None if new.expires_in_s is None else created + new.expires_in_s,
        )
        secret = f"cu_{id}_{secrets.token_urlsafe(32)}"
        row = TokenRow(**dict(token), sha256=hashlib.sha256(secret.encode()).hexdigest())
        try:
            await self._book.commit(
                expect={user_key(name): user, token_key(id): None}, put={token_key(id): row}
            )
        except Changed:
            self.show(name)
            raise Conflict(f"user {name!r} is being changed") from None
        return IssuedToken(**dict(token), secret=secret)

    async def revoke(self, name: str, id: str) -> None:
        """Ends a token, at once. Raises NotFound."""
        await self._book.settled(token_key(id))
        row = self._book.find(token_key(id), TokenRow)
        if row is None or row.user != name:
            raise NotFound(f"user {name!r:.60} has no token {id!r:.60}")
        await self._book.commit(delete=[token_key(id)])


def shown(row: TokenRow) -> Token:
    """A token as it may be seen: nothing that its secret could be found by."""
    return Token(**row.model_dump(exclude={"sha256"}))
