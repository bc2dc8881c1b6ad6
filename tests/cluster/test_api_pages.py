"""Listings: pages that miss nothing and repeat nothing, filters, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from copper.controller.book import Book
from copper.controller.rows import ClusterRow, cluster_key, vm_key
from tests.cluster.front import SHAPE, Served, serving, vm_of

CLUSTERS = ("a", "a-b", "b", "c")
STATES = ("running", "dead")


async def filled(book: Book) -> None:
    """Four virtual clusters of two owners, with 12 VMs each: 11 and 2 are not in the order of their letters."""
    put: dict[str, Any] = {}
    for number, name in enumerate(CLUSTERS):
        owner = "root" if number % 2 else "bob"
        put[cluster_key(name)] = ClusterRow(
            name=name, image="micro", shape=SHAPE, created=1.0, owner=owner
        )
        for vmid in range(12):
            vm = vm_of(name, vmid, owner, state=STATES[vmid % 2], host=f"h{vmid % 3}")
            put[vm_key(vm.name)] = vm
    await book.commit(put=put)


async def pages(served: Served, path: str) -> list[list[Any]]:
    """A listing as its Link headers lead on."""
    found = []
    target: str | None = path
    while target is not None:
        answer = await served.root.get(target)
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        link = answer.headers.get("link")
        assert link is None or link.endswith('>; rel="next"')
        target = link and link.partition(">")[0].removeprefix("<")
        assert target is None or not urlsplit(target).netloc
    return found


@pytest.mark.parametrize("limit", [1, 5, 12, 47, 48, 49])
async def test_pages_have_everything_once_in_order(limit: int) -> None:
    async with serving(prepare=filled) as served:
        parts = await pages(served, f"/v1/vms?limit={limit}")
        names = [vm["name"] for part in parts for vm in part]
        assert names == [f"{name}-{vmid}" for name in CLUSTERS for vmid in range(12)]
        assert all(len(part) == limit for part in parts[:-1])
        assert parts[-1]


async def test_pages_go_on_where_they_were_when_the_last_entry_is_gone() -> None:
    async with serving(prepare=filled) as served:
        first = (await served.root.get("/v1/vms?limit=15")).json()
        await served.core.end([first[-1]["name"], "a-b-3"])
        rest = (await served.root.get(f"/v1/vms?after={first[-1]['name']}")).json()
        assert rest[0]["name"] == "a-b-4"
        assert len(rest) == 48 - 15 - 1


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("cluster=a", 12),
        ("cluster=a-b&state=running", 6),
        ("host=h1", 16),
        ("host=h1&state=dead&cluster=c", 2),
        ("state=paused", 0),
    ],
)
async def test_vms_are_filtered(query: str, count: int) -> None:
    async with serving(prepare=filled) as served:
        parts = await pages(served, f"/v1/vms?{query}&limit=4")
        assert sum(map(len, parts)) == count


async def test_every_listing_has_pages() -> None:
    async with serving(prepare=filled) as served:
        for name in ("bob", "eve", "kim"):
            await served.secret(name)
            await served.secret(name)
        for cluster in CLUSTERS:
            await served.root.post(f"/v1/clusters/{cluster}/pause")
            for _ in range(2):
                await served.root.post(f"/v1/vms/{cluster}-0/tickets", json={"maxcpus": 1})
        for path, count in {
            "/v1/clusters": 4,
            "/v1/tickets": 8,
            "/v1/operations": 4,
            "/v1/users": 3,
            "/v1/users/bob/tokens": 2,
            "/v1/hosts": 2,
            "/v1/images": 1,
        }.items():
            parts = await pages(served, f"{path}?limit=1")
            assert [len(part) for part in parts] == [1] * count, path
            names = [part[0].get("name") or part[0]["id"] for part in parts]
            assert names == sorted(set(names)), path


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("/v1/clusters?owner=bob", 2),
        ("/v1/clusters?state=running", 4),
        ("/v1/clusters?state=defined", 0),
        ("/v1/tickets?cluster=a", 0),
        ("/v1/operations?cluster=a", 0),
        ("/v1/hosts?tag=of-here", 1),
        ("/v1/hosts?tag=none", 0),
    ],
)
async def test_other_listings_are_filtered(query: str, count: int) -> None:
    async with serving(prepare=filled) as served:
        assert len((await served.root.get(query)).json()) == count


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "limit: "),
        ("limit=10001", "limit: "),
        ("limit=many", "limit: "),
        ("limit=1&limit=x", "limit: "),
        ("state=running&state=dead", "state: given more than once"),
        ("state=asleep", "state: "),
        ("sate=running", "sate: there is no such filter"),
        ("after=nonsense", "'nonsense' is not a VM"),
        (f"after={'x' * 300}", "after: "),
    ],
)
async def test_a_bad_filter_is_one_clear_line(query: str, says: str) -> None:
    async with serving(prepare=filled) as served:
        answer = await served.root.get(f"/v1/vms?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "bad-input")
        assert answer.json()["detail"].startswith(says)
        assert "\n" not in answer.json()["detail"]


async def test_a_filter_that_names_nothing_is_not_found() -> None:
    async with serving(prepare=filled) as served:
        for path in ("/v1/vms?cluster=z", "/v1/tickets?cluster=z"):
            assert (await served.root.get(path)).status_code == 404
