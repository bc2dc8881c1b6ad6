"""Users and tokens: what is kept of a secret, who may be deleted, and what races leave."""

from __future__ import annotations

import asyncio
import json

import pytest

from copper.controller.book import Book
from copper.controller.rows import ClusterRow, cluster_key
from copper.controller.users import Users
from copper.model.errors import BadInput, Conflict, NotFound, Refused
from copper.model.machine import Shape
from copper.model.users import NewToken, NewUser, Principal, Quota, UserChange
from copper.store.memory import MemoryStore

SHAPE = Shape(memory_mib=256, cpus=1, disk_bytes=1 << 28)


async def users_of(*names: str) -> tuple[Users, Book]:
    book = Book(MemoryStore())
    await book.open()
    users = Users(book)
    for name in names:
        await users.create(NewUser(name=name))
    return users, book


def row_of(name: str, owner: str) -> ClusterRow:
    return ClusterRow(name=name, image="micro", shape=SHAPE, created=1.0, owner=owner)


async def test_a_user_is_made_once_and_root_never() -> None:
    users, _ = await users_of("bob")
    for name in ("bob", "root"):
        with pytest.raises(Conflict):
            await users.create(NewUser(name=name))
    with pytest.raises(BadInput):
        await users.create(NewUser(name="Bob/../x"))
    assert [user.name for user in users.all()] == ["bob"]


async def test_a_change_sets_what_is_given_only() -> None:
    users, _ = await users_of("bob")
    await users.change("bob", UserChange(quota=Quota(vms=3)))
    changed = await users.change("bob", UserChange(role="admin"))
    assert (changed.role, changed.quota.vms) == ("admin", 3)
    with pytest.raises(NotFound):
        await users.change("eve", UserChange())


async def test_many_changes_at_once_are_all_made() -> None:
    users, _ = await users_of("bob")
    changes = [UserChange(quota=Quota(vms=1)), UserChange(role="admin")]
    await asyncio.gather(*(users.change("bob", change) for change in changes))
    assert (users.show("bob").role, users.show("bob").quota.vms) == ("admin", 1)


async def test_nothing_of_a_secret_is_written_down_or_listed() -> None:
    users, book = await users_of("bob")
    token = await users.issue("bob", NewToken(note="laptop"))
    random = token.secret.split("_", 2)[2]
    written = json.dumps([entry.value for entry in await book.store.list("")])
    assert token.id in written
    assert random not in written
    assert [shown.model_dump_json().find("sha256") for shown in users.tokens("bob")] == [-1]


async def test_a_user_goes_with_all_tokens_but_not_while_it_owns_something() -> None:
    users, book = await users_of("bob", "eve")
    await users.issue("bob", NewToken())
    await users.issue("eve", NewToken())
    await book.commit(put={cluster_key("a"): row_of("a", "bob")})
    with pytest.raises(Conflict, match="owns virtual clusters: a"):
        await users.delete("bob")
    await book.commit(delete=[cluster_key("a")])
    await users.delete("bob")
    with pytest.raises(NotFound):
        users.tokens("bob")
    assert [entry.value["user"] for entry in await book.store.list("tokens/")] == ["eve"]


async def test_who_is_about_to_own_something_is_not_deleted() -> None:
    users, _ = await users_of("bob")
    with users.owning(Principal(name="bob", role="user"), None) as owner:
        assert owner == "bob"
        with pytest.raises(Conflict, match="being made"):
            await users.delete("bob")
    await users.delete("bob")


async def test_an_admin_may_name_an_owner_and_a_user_may_not() -> None:
    users, _ = await users_of("bob", "eve")
    admin, bob = Principal(name="root", role="admin"), Principal(name="bob", role="user")
    with users.owning(admin, "eve") as owner:
        assert owner == "eve"
    with pytest.raises(NotFound), users.owning(admin, "nobody"):
        pass
    with pytest.raises(Refused), users.owning(bob, "eve"):
        pass


async def test_a_token_that_is_issued_while_its_user_goes_does_not_stay() -> None:
    users, book = await users_of("bob")
    results = await asyncio.gather(
        *(users.issue("bob", NewToken()) for _ in range(5)),
        users.delete("bob"),
        *(users.issue("bob", NewToken()) for _ in range(5)),
        return_exceptions=True,
    )
    assert not [one for one in results if isinstance(one, Exception) and not _is_told(one)]
    if not users.all():
        assert await book.store.list("tokens/") == []


def _is_told(error: Exception) -> bool:
    return isinstance(error, Conflict | NotFound)


async def test_a_token_is_revoked_by_its_user_s_name_only() -> None:
    users, _ = await users_of("bob", "eve")
    token = await users.issue("bob", NewToken())
    with pytest.raises(NotFound):
        await users.revoke("eve", token.id)
    await users.revoke("bob", token.id)
    with pytest.raises(NotFound):
        await users.revoke("bob", token.id)
