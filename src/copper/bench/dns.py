"""`copper bench dns`: how fast names are answered, how many of them, and how soon they are right.

Server, clients and what they are compared with are processes of their own, on loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from copper.bench import dns_kinds as kinds
from copper.bench import machine, place
from copper.bench.apart import apart
from copper.bench.dns_load import ANEW
from copper.bench.dns_results import Results, report
from copper.bench.interrupts import ended_in_order
from copper.bench.measured import written_at_end
from copper.bench.place import Place, processor_seconds
from copper.bench.progress import Progress
from copper.dns.lend import lending_socket
from copper.dns.options import Address, bound
from copper.model.errors import BadInput, CopperError, TimedOut
from copper.model.networks import Attachment
from copper.model.settings import Settings, from_environment

ROUNDS = 10
SECONDS = 3.0  # of each kind in each round
CLUSTER, IMAGE = "bench", "micro"
# out of ranges that are nobody's (RFC 2544, RFC 3849)
NETWORK, POOL = "public", ["198.18.0.0/15", "2001:db8::/64"]
READY_S = 30.0
NXDOMAIN = 3


def main(
    *,
    only: Sequence[str] = (),
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    out: Path | None = None,
    settings: Settings | None = None,
    vms: int = kinds.VMS,
) -> int:
    """Runs the bench, prints its report, and writes bench-dns.json into `out`.

    Returns 0, or 1 when something could not be measured. Raises BadInput and whatever keeps a run from
    beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    if unknown := sorted(set(only) - set(kinds.PARTS)):
        raise BadInput(f"--only {','.join(unknown)}", advice=f"parts: {', '.join(kinds.PARTS)}")
    parts = [part for part in kinds.PARTS if part in only or not only]
    out = out or Path("bench")
    out.mkdir(parents=True, exist_ok=True)
    keep = place.keep_folder(settings)
    results = Results(
        parts=parts,
        options={"seconds": seconds, "rounds": rounds, "vms": vms},
        machine=machine.names_facts(),
    )
    settings = dataclasses.replace(settings, fake=True, networks=(NETWORK,), dns="off")
    progress = Progress(rounds)
    with ended_in_order(), written_at_end(results, out / "bench-dns.json", report, progress):
        with place.run_folders(keep) as (folder, sockets):
            with place.a_place(settings, keep, folder, sockets) as where:
                run = Run(where, results, folder / "bench.log", seconds, vms)
                with progress.step(f"{vms} VMs"):
                    run.populate()
                with run.server():
                    for number in range(rounds):
                        progress.begin_round(number)
                        for part in parts:
                            run.measure(part)
    return 1 if results.missing else 0


class Run:
    """One run of the bench over a fake Copper and a server of its names."""

    def __init__(self, where: Place, results: Results, log: Path, seconds: float, vms: int) -> None:
        self._parts: dict[str, Callable[[], None]] = {
            "steady": self.steady,
            "most": self.most,
            "change": self.change,
        }
        self._where, self._results, self._log = where, results, log
        self._seconds, self._vms = seconds, vms
        # clients where the server is not, as far as there are two
        self._processor, self._others = _processors()
        self._port, self._pid, self._echo = 0, 0, 0
        self._seed = 0

    def populate(self) -> None:
        """The VMs that are asked for."""
        self._where.client.create_network(NETWORK, POOL)
        self._where.client.create(CLUSTER, IMAGE, networks=[Attachment(name=NETWORK)])
        master = self._where.client.boot(CLUSTER)
        if self._vms > 1:
            self._where.client.clone_vm(master.name, count=self._vms - 1)

    @contextlib.contextmanager
    def server(self) -> Iterator[None]:
        """A server of names as the node starts it, and a bare echo, both on one processor."""
        settings = self._where.settings
        environment = {
            **os.environ,
            "COPPER_RUN_DIR": str(settings.run_dir),
            "COPPER_STATE_DIR": str(settings.state_dir),
            "COPPER_DNS": "off",  # the sockets are handed over
            "COPPER_DNS_FORWARD": "",
            "COPPER_DOMAIN": "clusters",
        }
        with contextlib.ExitStack() as open_:
            log = open_.enter_context(self._log.open("ab"))
            sockets = open_.enter_context(bound(Address("127.0.0.1", 0)))
            self._port = sockets.at.port
            # nobody lends there; beside the Copper's own
            lending = open_.enter_context(lending_socket(settings.run_dir / "bench-dns.sock"))
            fds = (lending.fileno(), sockets.udp.fileno(), sockets.tcp.fileno())
            server = subprocess.Popen(
                [sys.executable, "-m", "copper.dns", *map(str, fds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=fds,
                env=environment,
                start_new_session=True,
            )
            open_.callback(_end, server)
            self._pid = server.pid
            _pin(server.pid, self._processor)
            bare = open_.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            bare.bind(("127.0.0.1", 0))
            self._echo = bare.getsockname()[1]
            order = {"fd": bare.fileno(), "processor": self._processor}
            echo = subprocess.Popen(
                [sys.executable, "-m", "copper.bench.apart", "dns-echo", json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(bare.fileno(),),
                start_new_session=True,
            )
            open_.callback(_end, echo)
            self._until(f"{CLUSTER}-0.clusters", lambda rcode, count: count > 0)
            yield

    def measure(self, part: str) -> None:
        """One part once. What fails is written down, and the others go on."""
        try:
            self._parts[part]()
        except CopperError as error:
            self._results.missing[part] = str(error)

    def _order(self, port: int, questions: object) -> dict[str, Any]:
        return {
            "port": port,
            "questions": questions,
            "seconds": self._seconds,
            "processor": self._others,
        }

    def _questions(self) -> list[str]:
        """The virtual cluster, its VMs and their addresses, some with EDNS and in capitals, in an order by chance."""
        import dns.message

        rows = self._where.client.vms(CLUSTER)
        asked = [(f"{CLUSTER}.clusters", kind) for kind in ("A", "AAAA")] * (len(rows) // 10 + 1)
        for row in rows:
            asked += [(row.name, "A"), (f"{row.name.upper()}.Clusters", "AAAA")]
            reverse = ".".join([*reversed(row.public[0].split(".")), "in-addr.arpa"])
            asked.append((reverse, "PTR"))
        random.Random(len(asked)).shuffle(asked)
        return [
            dns.message.make_query(name, kind, use_edns=number % 2 == 0, payload=1232)
            .to_wire()
            .hex()
            for number, (name, kind) in enumerate(asked)
        ]

    def steady(self) -> None:
        """At the rate that is to be reached, and a bare echo at the same."""
        self._seed += 1
        rate = {"per_second": kinds.PER_SECOND, "seed": self._seed}
        questions = self._questions()
        found = apart("dns-steady", {**self._order(self._echo, questions), **rate}, self._log)
        self._results.add(kinds.ECHOED, *found["answered_ms"])
        used = processor_seconds(self._pid)
        began = time.perf_counter()
        found = apart("dns-steady", {**self._order(self._port, questions), **rate}, self._log)
        share = (processor_seconds(self._pid) - used) / self._seconds
        assert time.perf_counter() - began >= self._seconds
        self._results.add(kinds.ANSWERED, *found["answered_ms"])
        self._results.add(kinds.SHARE, 100 * share)
        self._results.add(kinds.UNANSWERED, found["unanswered"])

    def most(self) -> None:
        """As many as can be, the echo first."""
        at_once = {"at_once": kinds.AT_ONCE}
        questions = self._questions()

        def per_second(what: str, port: int, asked: object) -> float:
            found = apart(what, {**self._order(port, asked), **at_once}, self._log)
            return float(found["per_second"])

        bare = per_second("dns-most", self._echo, questions)
        kept = per_second("dns-most", self._port, questions)
        self._results.add(kinds.ECHOES, bare)
        self._results.add(kinds.KEPT, kept)
        self._results.add(kinds.KEPT_SHARE, kept / bare)
        self._results.add(kinds.ANEW, per_second("dns-most", self._port, ANEW))
        self._results.add(kinds.TCP, per_second("dns-most-tcp", self._port, questions))

    def change(self) -> None:
        """A virtual cluster is forked and one of its VMs ended, while its names are asked for without a pause."""
        client, name = self._where.client, "change"
        client.create(name, IMAGE, networks=[Attachment(name=NETWORK)])
        master = client.boot(name)
        told: dict[tuple[str, str], float] = {}  # VM and state: when the API's event came
        with client.raw.events(name) as events:

            def follow() -> None:
                for change in events:
                    body = change["body"] or {"state": "gone"}
                    if change["kind"] == "vm":
                        told.setdefault((change["name"], body["state"]), time.perf_counter())
                    if change["kind"] == "cluster" and change["body"] is None:
                        return

            following = threading.Thread(target=follow)
            following.start()
            calling = threading.Thread(
                target=lambda: client.clone_vm(master.name, count=self._vms - 1)
            )
            calling.start()
            right = self._growing(f"{name}.clusters", self._vms)
            calling.join()
            last = f"{name}-{self._vms - 1}"
            called = time.perf_counter()
            killing = threading.Thread(target=lambda: client.kill_vm(last))
            killing.start()
            gone = self._until(f"{last}.clusters", lambda rcode, count: rcode == NXDOMAIN)
            killing.join()
            client.kill(name)
            client.delete(name)
            following.join()
        ready = sorted(
            at for (vm, state), at in told.items() if state == "running" and vm != master.name
        )
        # an event may come later than the answer is right: both follow the same changes
        pairs = zip(ready, right[1:], strict=True)
        self._results.add(kinds.BORN, *(max(0.0, at - event) * 1000 for event, at in pairs))
        ends = [at for (vm, state), at in told.items() if vm == last and state in _ENDED]
        self._results.add(kinds.GONE, max(0.0, gone - min(ends)) * 1000)
        self._results.add(kinds.KILLED, (gone - called) * 1000)

    def _growing(self, name: str, vms: int) -> list[float]:
        """For each number of addresses up to `vms`, when an answer had as many. Raises TimedOut."""
        reached: list[float] = []
        query = _query(name)
        deadline = time.monotonic() + READY_S
        with (
            socket.create_connection(("127.0.0.1", self._port), 10) as sock,
            sock.makefile("rb") as read,
        ):
            while len(reached) < vms:
                if time.monotonic() > deadline:
                    raise TimedOut(f"{name} has {len(reached)} addresses after {READY_S:g} s")
                sock.sendall(len(query).to_bytes(2, "big") + query)
                answer = read.read(int.from_bytes(read.read(2), "big"))
                at = time.perf_counter()
                (count,) = struct.unpack_from("!H", answer, 6)
                reached += [at] * (count - len(reached))
        return reached

    def _until(self, name: str, right: Callable[[int, int], bool]) -> float:
        """When an answer about a name was right: asked again as soon as it was not. Raises TimedOut."""
        query = _query(name)
        deadline = time.monotonic() + READY_S
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self._port))
            sock.settimeout(1)
            while time.monotonic() < deadline:
                sock.send(query)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    answer = sock.recv(4096)
                    at = time.perf_counter()
                    _, flags, _, count = struct.unpack_from("!HHHH", answer)
                    if right(flags & 15, count):
                        return at
        raise TimedOut(f"{name} was not right within {READY_S:g} s")


def _query(name: str) -> bytes:
    """A question for its IPv4 addresses."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


_ENDED = ("ending", "dead", "gone")


def _processors() -> tuple[int | None, int | None]:
    """One for the server and one for the others; none where there is only one."""
    several = sorted(os.sched_getaffinity(0))
    return (several[0], several[1]) if len(several) > 1 else (None, None)


def _pin(pid: int, processor: int | None) -> None:
    if processor is not None:
        os.sched_setaffinity(pid, {processor})


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
