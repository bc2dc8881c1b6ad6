"""What Prometheus reads, and that the dashboard shows nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from fastapi import WebSocket
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from copper.controller.access import asking
from copper.controller.capacity import Capacity
from copper.controller.hosts import Hosts, HttpHost
from copper.controller.metrics import Measured, Metrics, routes
from copper.controller.rows import cluster_key, ticket_key, vm_key
from copper.model.errors import Conflict
from copper.model.tickets import Ticket
from copper.model.users import Role
from copper.wire.app import new_app
from copper.wire.http import Peer
from tests.unit.accounts import Place, asked_by, new_place, report, use, vm
from tests.unit.rules import ROOT

DASHBOARD = json.loads((ROOT / "docs/grafana/copper.json").read_text())
MIB = 1 << 20


async def measured() -> tuple[Place, Metrics]:
    """A host with a virtual cluster of two VMs and a ticket, and one host that does not answer."""
    place = await new_place()
    capacity = Capacity()
    place.book.on_change(capacity.seen)
    hosts = Hosts(capacity)
    for name in ("a", "b"):
        hosts.add(name, HttpHost(Peer.__new__(Peer)))
    await place.put(vm("demo-1"))
    ticket = Ticket(
        id="t", cluster="demo", holder=0, cpus=4, vms=2, mincpuspervm=1, status="granted",
        places={"a": 2}, vm_bytes=30 * MIB,
    )  # fmt: skip
    await place.book.commit(put={ticket_key("t"): ticket})
    for second in (0, 2):
        seen = report(use("demo-0", cpu_s=second), use("demo-1", disk=second))
        place.accounts.add(seen, second)
        hosts.reports["a"] = seen
        capacity.report(seen)
    return place, Metrics(place.book, hosts, place.accounts, lambda: 3, "1.2")


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """By name and labels, in the order of their names."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_state_hosts_and_usage_are_read() -> None:
    _, metrics = await measured()
    found = read(metrics)
    expected: dict[tuple[str, ...], float] = {
        ("copper_build_info", "1.2"): 1,
        ("copper_clusters", "ann"): 1,
        ("copper_vms", "a", "running"): 2,
        ("copper_tickets", "granted"): 1,
        ("copper_tickets_waiting",): 3,
        ("copper_host_up", "a"): 1,
        ("copper_host_up", "b"): 0,
        ("copper_host_cpus", "a"): 4,
        ("copper_host_cpus_offered", "a"): 16,
        ("copper_host_cpus_reserved", "a"): 2 + 4,
        ("copper_host_memory_bytes", "a"): 1 << 34,
        ("copper_host_memory_free_bytes", "a"): 1 << 33,
        ("copper_host_memory_reserved_bytes", "a"): (2 * 20 + 2 * 30) * MIB,
        ("copper_host_memory_own_bytes", "a"): 20 * MIB,
        ("copper_host_standbys", "a"): 0,
        ("copper_cluster_cpu_seconds_total", "demo", "ann"): 2,
        ("copper_cluster_vm_seconds_total", "demo", "ann"): 4,
        ("copper_cluster_disk_written_bytes_total", "demo", "ann"): 2,
        ("copper_cluster_memory_byte_seconds_total", "demo", "own", "ann"): 40 * MIB,
        ("copper_cluster_memory_byte_seconds_total", "demo", "reserved", "ann"): 80 * MIB,
    }
    assert {key: found.get(key) for key in expected} == expected


async def test_what_is_gone_has_no_series() -> None:
    place, metrics = await measured()
    await place.book.commit(delete=[vm_key("demo-0"), vm_key("demo-1"), cluster_key("demo")])
    found = read(metrics)
    assert not [key for key in found if key[0].startswith(("copper_vms", "copper_cluster"))]


async def test_latencies_are_histograms() -> None:
    _, metrics = await measured()
    metrics.observe_ticket(0.003)
    metrics.observe_clone(0.3, 5)
    metrics.observe_commit(0.0005)
    metrics.observe_commit(99)
    found = read(metrics)
    assert found["copper_ticket_seconds_bucket", "0.002"] == 0
    assert found["copper_ticket_seconds_bucket", "0.005"] == 1
    assert found["copper_ticket_seconds_sum",] == 0.003
    assert found["copper_clones_total",] == 5
    assert found["copper_clone_seconds_count",] == 1
    # a bucket has what is at most its bound
    assert found["copper_store_commit_seconds_bucket", "0.0005"] == 1
    assert found["copper_store_commit_seconds_bucket", "5.0"] == 1
    assert found["copper_store_commit_seconds_bucket", "+Inf"] == 2


async def test_names_follow_the_conventions() -> None:
    _, metrics = await measured()
    for family in metrics.collect():
        assert re.fullmatch(r"copper_[a-z_]+", family.name)
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        elif family.type == "gauge":
            assert not family.name.endswith("_total")


def asked(metrics: Metrics, role: Role) -> list[int]:
    app = new_app("t", "0")
    app.include_router(routes(metrics, asking))

    @app.get("/v1/things/{name}")
    async def thing(name: str) -> str:
        if name == "bad":
            raise Conflict("bad")
        if name == "worse":
            raise ValueError(name)
        return name

    @app.websocket("/v1/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    served = asked_by(Measured(app, metrics), "x", role)
    client = TestClient(served, raise_server_exceptions=False)
    with client.websocket_connect("/v1/talk"):
        pass
    paths = ["/v1/things/a", "/v1/things/b", "/v1/things/bad", "/v1/things/worse", "/none/x"]
    return [client.get(path).status_code for path in [*paths, "/metrics"]]


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("user", 403)])
async def test_requests_are_counted_by_the_pattern_of_their_route(role: Role, status: int) -> None:
    _, metrics = await measured()
    statuses = await asyncio.to_thread(asked, metrics, role)
    assert statuses == [200, 200, 409, 500, 404, status]
    metrics.observe_request("BREW", "none", 405, 0.1)
    found = read(metrics)
    counted = {
        key[1:]: value
        for key, value in found.items()
        if key[0] == "copper_api_request_seconds_count"
    }
    assert counted == {
        ("GET", "/v1/things/{name}", "200"): 2,
        ("GET", "/v1/things/{name}", "409"): 1,
        ("GET", "/v1/things/{name}", "500"): 1,
        ("GET", "none", "404"): 1,
        ("GET", "/metrics", str(status)): 1,
        ("other", "none", "405"): 1,
    }


# the dashboard


def charts() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    own = [variable["definition"] for variable in DASHBOARD["templating"]["list"][1:]]
    return own + [target["expr"] for panel in charts() for target in panel["targets"]]


async def test_every_metric_and_label_of_the_dashboard_is_there() -> None:
    _, metrics = await measured()
    metrics.observe_request("GET", "/x", 200, 0.1)
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for query in queries():
        names = re.findall(r"copper_\w+", query)
        assert names and set(names) <= set(labels), query
        of_all = set.intersection(*(labels[name] for name in names))
        used = re.findall(r"[{,](\w+)=", query)
        for group in re.findall(r"by \(([\w, ]+)\)", query):
            used += group.split(", ")
        assert set(used) <= of_all, query


def test_every_metric_is_shown_somewhere() -> None:
    shown = set(re.findall(r"copper_\w+", " ".join(queries())))
    shown = {re.sub(r"_(bucket|count|total)$", "", name) for name in shown}

    async def names() -> set[str]:
        _, metrics = await measured()
        return {family.name for family in metrics.collect()}

    assert asyncio.run(names()) - shown == set()


def test_the_dashboard_is_what_grafana_takes() -> None:
    assert isinstance(DASHBOARD["schemaVersion"], int) and DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"] and DASHBOARD["uid"] and DASHBOARD["id"] is None
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in charts():
        assert panel["type"] in ("timeseries", "stat") and panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs)
    for query in queries():
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}")
        assert set(re.findall(r"\$(\w+)", query)) <= {*variables, "__rate_interval"}


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
