"""What Prometheus reads at GET /metrics: state, hosts, usage, and how long things took.

Nothing here is kept in a registry of the process: a scrape reads the book, the hosts' last reports and the accounts.
What is counted begins at 0 when the controller starts, as Prometheus expects. docs/grafana/copper.json shows all of it.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Response
from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from copper.controller.access import allow
from copper.controller.accounts import Accounts
from copper.controller.book import Book
from copper.controller.hosts import Hosts
from copper.controller.rows import ClusterRow
from copper.model.api import Vm
from copper.model.errors import Refused
from copper.model.machine import Record
from copper.model.tickets import Ticket
from copper.model.users import Principal

QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds
LONG = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
Labels = tuple[str, ...]


@dataclasses.dataclass(slots=True)
class _Spread:
    """How many observations were in each bucket, and their sum."""

    counts: list[int]
    total: float = 0.0


class _Histogram:
    """Observations by labels; cheap, since only the event loop writes."""

    def __init__(self, name: str, says: str, bounds: Sequence[float], *labels: str) -> None:
        self._name, self._says, self._bounds, self._labels = name, says, bounds, labels
        self._spreads: dict[Labels, _Spread] = {}
        if not labels:
            self._spreads[()] = _Spread([0] * (len(bounds) + 1))

    def observe(self, seconds: float, *labels: str) -> None:
        spread = self._spreads.get(labels)
        if spread is None:
            spread = self._spreads[labels] = _Spread([0] * (len(self._bounds) + 1))
        spread.counts[bisect.bisect_left(self._bounds, seconds)] += 1
        spread.total += seconds

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._says, labels=self._labels)
        for labels, spread in self._spreads.items():
            buckets, below = [], 0
            for bound, count in zip((*self._bounds, "+Inf"), spread.counts, strict=True):
                below += count
                buckets.append((str(bound), below))
            family.add_metric(labels, buckets, spread.total)
        return family


class Metrics(Collector):
    """All metrics of a controller. `waiting` says how many requests for tickets wait for room."""

    def __init__(
        self, book: Book, hosts: Hosts, accounts: Accounts, waiting: Callable[[], int], version: str
    ) -> None:
        self._hosts = hosts
        self._accounts = accounts
        self._waiting = waiting
        self._version = version
        self._clusters: collections.Counter[Labels] = collections.Counter()  # by owner
        self._vms: collections.Counter[Labels] = collections.Counter()  # by state and host
        self._tickets: collections.Counter[Labels] = collections.Counter({("granted",): 0})
        self._clones = 0
        self._requests = _Histogram(
            "copper_api_request_seconds",
            "From an API request to the beginning of its answer",
            QUICK,
            *("method", "route", "status"),
        )
        self._ticket_times = _Histogram(
            "copper_ticket_seconds", "From a request for a ticket to the durable ticket", QUICK
        )
        self._clone_times = _Histogram(
            "copper_clone_seconds", "From a clone call to all its clones running", LONG
        )
        self._commits = _Histogram(
            "copper_store_commit_seconds", "Commits of the store, each durable", QUICK
        )
        book.on_change(self._seen)

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        for record, sign in ((before, -1), (after, 1)):
            if isinstance(record, Vm):
                self._vms[record.state, record.host] += sign
            elif isinstance(record, Ticket):
                self._tickets[(record.status,)] += sign
            elif isinstance(record, ClusterRow):
                self._clusters[(record.owner,)] += sign

    # what the others tell

    def observe_ticket(self, seconds: float) -> None:
        """A ticket was granted so long after it was asked for."""
        self._ticket_times.observe(seconds)

    def observe_clone(self, seconds: float, count: int) -> None:
        """So many clones ran so long after they were asked for."""
        self._clone_times.observe(seconds)
        self._clones += count

    def observe_commit(self, seconds: float) -> None:
        """The store took a commit."""
        self._commits.observe(seconds)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An API request was answered. `route`: its pattern, never the path itself."""
        known = method if method in METHODS else "other"
        self._requests.observe(seconds, known, route, str(status))

    # what is read

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterable[Metric]:
        """Every metric, as it is now."""
        yield _gauge("copper_build_info", "This Copper", ("version",), [((self._version,), 1)])
        for counts in (self._clusters, self._vms):
            for key in [key for key, count in counts.items() if not count]:
                del counts[key]
        yield _gauge("copper_clusters", "Virtual clusters", ("owner",), self._clusters.items())
        vms = self._vms.items()
        yield _gauge("copper_vms", "VMs by state and host", ("state", "host"), vms)
        yield _gauge("copper_tickets", "Tickets by status", ("status",), self._tickets.items())
        waiting: list[tuple[Labels, float]] = [((), self._waiting())]
        yield _gauge("copper_tickets_waiting", "Requests that wait for room", (), waiting)
        yield from self._of_hosts()
        yield from self._used()
        clones = CounterMetricFamily("copper_clones", "Clones that came to run")
        clones.add_metric((), self._clones)
        yield clones
        for histogram in (self._requests, self._ticket_times, self._clone_times, self._commits):
            yield histogram.family()

    def _of_hosts(self) -> Iterable[Metric]:
        reports = self._hosts.reports
        up = [((name,), float(name in reports)) for name in self._hosts.names()]
        yield _gauge("copper_host_up", "Whether a host answers", ("host",), up)
        held = self._hosts.capacity.hosts
        for name, says, value in (
            ("cpus", "Real processors", lambda facts: facts.cpus),
            ("cpus_offered", "Processors to give out", lambda f: int(f.cpus * f.cpu_ratio)),
            ("cpus_reserved", "Given out and promised", lambda f: _of(held, f.name, "cpus")),
            ("memory_bytes", "Memory", lambda facts: facts.memory_bytes),
            ("memory_free_bytes", "Memory for images and VMs", lambda facts: facts.free_bytes),
            (
                "memory_reserved_bytes",
                "Memory kept for VMs and tickets",
                lambda facts: _of(held, facts.name, "reserved"),
            ),
            (
                "memory_own_bytes",
                "Memory that VMs hold for themselves",
                lambda facts: sum(vm.own_bytes for vm in reports[facts.name].vms),
            ),
            ("disk_bytes", "Disk below the state directory", lambda facts: facts.disk_bytes),
            ("disk_free_bytes", "Disk that is free there", lambda facts: facts.disk_free_bytes),
            ("standbys", "Processes that are ready for clones", lambda facts: facts.standbys),
        ):
            values = [((host,), value(report.facts)) for host, report in reports.items()]
            yield _gauge(f"copper_host_{name}", says, ("host",), values)

    def _used(self) -> Iterable[Metric]:
        used = self._accounts.since_start()
        for name, says, field in (
            ("cpu_seconds", "Processor seconds", "cpu_s"),
            ("vm_seconds", "VMs times the seconds that they were there", "vm_s"),
            ("disk_read_bytes", "Read from disks", "disk_read_bytes"),
            ("disk_written_bytes", "Written to disks", "disk_written_bytes"),
            ("net_received_bytes", "Received by VMs", "net_received_bytes"),
            ("net_sent_bytes", "Sent by VMs", "net_sent_bytes"),
        ):
            counter = CounterMetricFamily(
                f"copper_cluster_{name}", says, labels=("cluster", "owner")
            )
            for usage in used:
                counter.add_metric((usage.cluster, usage.owner), getattr(usage, field))
            yield counter
        memory = CounterMetricFamily(
            "copper_cluster_memory_byte_seconds",
            "Memory times time",
            labels=("cluster", "owner", "kind"),
        )
        for usage in used:
            for kind in ("nominal", "shared", "own", "reserved"):
                value = getattr(usage, f"{kind}_byte_s")
                memory.add_metric((usage.cluster, usage.owner, kind), value)
        yield memory


def _gauge(
    name: str, says: str, labels: Sequence[str], values: Iterable[tuple[Labels, float]]
) -> Metric:
    family = GaugeMetricFamily(name, says, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _of(held: Mapping[str, Any], host: str, field: str) -> int:
    return int(getattr(held[host], field)) if host in held else 0


class Measured:
    """An ASGI application whose requests are measured, by the pattern of their route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0  # no answer yet; a stream is measured up to its beginning

        async def sending(message: Message) -> None:
            nonlocal status
            if not status and message["type"] == "http.response.start":
                status = message["status"]
                self._observe(scope, status, began)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            if not status:
                self._observe(scope, 500, began)
            raise

    def _observe(self, scope: Scope, status: int, began: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        seconds = time.perf_counter() - began
        self._metrics.observe_request(scope["method"], route, status, seconds)


def routes(metrics: Metrics, principal: Callable[..., Any]) -> APIRouter:
    """GET /metrics, for administrators: it names everybody's virtual clusters."""
    router = APIRouter(dependencies=[allow("admin")])
    asks = Depends(principal)

    @router.get("/metrics", include_in_schema=False)
    async def read(who: Principal = asks) -> Response:
        if not who.sees_all:
            raise Refused("/metrics is for administrators", advice="gc-vc usage shows your own")
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
