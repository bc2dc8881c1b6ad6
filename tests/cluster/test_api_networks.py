"""Public networks and forwards over HTTP: who may, what is refused and how, and what is told of them."""

from __future__ import annotations

from typing import Any

from copper.controller.rows import ClusterRow, cluster_key, lease_key
from copper.model.networks import Lease
from tests.cluster.front import SHAPE, Served, serving

POOL = ["198.51.100.10-198.51.100.12", "2001:db8::/120"]


async def _cluster(served: Served, name: str, owner: str) -> None:
    row = ClusterRow(name=name, image="micro", shape=SHAPE, created=1.0, owner=owner)
    await served.book.commit(put={cluster_key(name): row})


async def test_an_admin_makes_networks_and_users_know_their_names() -> None:
    async with serving() as served:
        ann = await served.user("ann")
        new: dict[str, Any] = {"name": "pub", "pool": POOL, "mode": "routed", "bridge": "br0"}
        made = await served.root.post("/v1/networks", json=new)
        assert made.status_code == 201
        shown = made.json()
        assert {**shown, "created": 0} == {
            **new,
            "pool": ["198.51.100.10-198.51.100.12", "2001:db8::1-2001:db8::ff"],
            "size": 3,
            "left": 3,
            "hosts": [],
            "created": 0,
        }
        assert (await served.root.get("/v1/networks")).json() == [shown]
        assert (await served.root.get("/v1/networks/pub")).json() == shown
        names = (await ann.get("/v1/networks")).json()
        assert [{key for key, value in one.items() if value is not None} for one in names] == [
            {"name"}
        ]
        for method, path, body in (
            ("POST", "/v1/networks", new),
            ("GET", "/v1/networks/pub", None),
            ("GET", "/v1/networks/pub/leases", None),
            ("DELETE", "/v1/networks/pub", None),
        ):
            answer = await ann.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "refused")


async def test_leases_are_listed_page_by_page_and_hold_their_network() -> None:
    async with serving() as served:
        await served.root.post("/v1/networks", json={"name": "pub", "pool": POOL})
        rows = [
            Lease(address=f"198.51.100.{n}", network="pub", vm=f"a-{n - 10}", cluster="a")
            for n in (10, 11, 12)
        ]
        await served.book.commit(put={lease_key(row.address): row for row in rows})
        assert (await served.root.get("/v1/networks/pub")).json()["left"] == 0
        first = await served.root.get("/v1/networks/pub/leases?limit=2")
        following = await served.root.get(first.headers["link"].partition(">")[0].strip("<"))
        assert [*first.json(), *following.json()] == [row.model_dump() for row in rows]
        refused = await served.root.delete("/v1/networks/pub")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        await served.book.commit(delete=[lease_key(row.address) for row in rows])
        assert (await served.root.delete("/v1/networks/pub")).status_code == 204
        assert (await served.root.get("/v1/networks/pub")).status_code == 404


async def test_what_is_no_network_is_refused() -> None:
    async with serving() as served:
        for body, code in (
            ({"name": "pub", "pool": []}, "bad-input"),
            ({"name": "pub", "pool": ["nonsense"]}, "bad-input"),
            ({"name": "pub", "pool": ["127.0.0.1"]}, "bad-input"),
            ({"name": "Pub!", "pool": POOL}, "bad-input"),
            ({"name": "pub", "pool": POOL, "mode": "magic"}, "bad-input"),
            ({"name": "pub", "pool": POOL, "bridge": "../x"}, "bad-input"),
        ):
            answer = await served.root.post("/v1/networks", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, code), body
        await served.root.post("/v1/networks", json={"name": "pub", "pool": POOL})
        for body in ({"name": "pub", "pool": ["203.0.113.1"]}, {"name": "two", "pool": POOL}):
            answer = await served.root.post("/v1/networks", json=body)
            assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), body


async def test_users_forward_to_their_own_and_leave_the_hosts_services_alone() -> None:
    async with serving() as served:
        ann, bob = await served.user("ann"), await served.user("bob")
        await _cluster(served, "a", "ann")
        await _cluster(served, "b", "bob")
        body = {"vmid": 0, "host_port": 8080, "port": 80}
        made = await ann.post("/v1/clusters/a/forwards", json=body)
        assert made.status_code == 201
        assert made.json() == {**body, "cluster": "a", "protocol": "tcp"}
        assert (await ann.get("/v1/clusters/a/forwards")).json() == [made.json()]
        for client, path, change, status in (
            (bob, "/v1/clusters/a/forwards", {"host_port": 8081}, 404),
            (bob, "/v1/clusters/b/forwards", {}, 409),
            (ann, "/v1/clusters/a/forwards", {"host_port": 22}, 403),
            (ann, "/v1/clusters/a/forwards", {"host_port": 0}, 422),
            (ann, "/v1/clusters/a/forwards", {"port": 65536}, 422),
            (ann, "/v1/clusters/a/forwards", {"protocol": "sctp"}, 422),
        ):
            answer = await client.post(path, json={**body, **change})
            assert answer.status_code == status, (path, change, answer.text)
        conflict = await bob.post("/v1/clusters/b/forwards", json=body)
        assert "'a'" not in conflict.text and "ann" not in conflict.text
        low = await served.root.post("/v1/clusters/a/forwards", json={**body, "host_port": 22})
        assert low.status_code == 201
        assert (await bob.get("/v1/clusters/a/forwards")).status_code == 404
        assert (await bob.delete("/v1/clusters/a/forwards/tcp/8080")).status_code == 404
        assert (await bob.delete("/v1/clusters/b/forwards/tcp/8080")).status_code == 404
        assert (await ann.delete("/v1/clusters/a/forwards/udp/8080")).status_code == 404
        assert (await ann.delete("/v1/clusters/a/forwards/tcp/8080")).status_code == 204
        assert (await bob.post("/v1/clusters/b/forwards", json=body)).status_code == 201
