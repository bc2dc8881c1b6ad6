"""Controller and host agent in one process, which speak HTTP all the same."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2

import copper
from copper.controller.access import Access, asking
from copper.controller.accounts_api import routes as usage_routes
from copper.controller.api import Front, install
from copper.controller.core import Core
from copper.controller.hosts import Host, HttpHost
from copper.controller.metrics import Measured
from copper.controller.metrics import routes as metrics_routes
from copper.garbage import look_at_what_is_new
from copper.host.agent import HostAgent
from copper.host.api import routes as host_routes
from copper.host.controller_link import ControllerLink
from copper.model.api import Health
from copper.model.errors import BadInput, Conflict, CopperError
from copper.model.settings import Settings, from_environment
from copper.node.names import NameServer
from copper.priority import come_first
from copper.store.sqlite import SqliteStore
from copper.vmm.paging import give_back, keep_little, stay_resident
from copper.wire import trace
from copper.wire.app import new_app
from copper.wire.gate import Gate, is_no_call, only_reads_state
from copper.wire.http import Peer
from copper.wire.serve import Listener, address_of, tcp_socket, unix_socket
from copper.wire.serve import serve as serve_http

GIVE_BACK_S = 60.0
log = logging.getLogger(__name__)


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Two of them would fight over the same VMs. Raises Conflict."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Copper runs already in {settings.run_dir}") from None
        yield


def _say_ready() -> None:
    """Tells whoever started this process, by the descriptor that it left in COPPER_READY_FD."""
    fd = os.environ.pop("COPPER_READY_FD", "")
    if fd.isdigit():
        with contextlib.suppress(OSError), os.fdopen(int(fd), "w") as starter:
            starter.write("ready\n")


def links(settings: Settings, peer: Peer) -> dict[str, tuple[HostAgent, Host]]:
    """The host agents of this process by their names, and how the controller speaks to each."""
    controller = ControllerLink(peer)
    if settings.fake:
        from copper.fake.host import served_hosts

        return {host.name: (host.agent, host) for host in served_hosts(settings, controller)}
    agent = HostAgent(settings, controller)
    return {agent.name: (agent, HttpHost(peer))}


def _health(settings: Settings, agent: HostAgent, names: NameServer) -> Health:
    verdict = agent.verdict
    return Health(
        version=copper.__version__,
        pid=os.getpid(),
        host=agent.name,
        accelerator="fake" if settings.fake else verdict.accelerator,
        accelerator_reason=verdict.reason,
        accelerator_proven=verdict.proven,
        state_dir=str(settings.state_dir),
        dns=str(names.at or ""),
        dns_reason=names.reason,
    )


@contextlib.asynccontextmanager
async def _told_to_end(names: NameServer) -> AsyncIterator[asyncio.Event]:
    """Is set by SIGTERM or SIGINT, once nobody follows names here: a request without end holds up an end."""
    loop, told, end = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)

    async def leave() -> None:
        await told.wait()
        await names.stop()
        end.set()

    leaving = loop.create_task(leave())
    try:
        yield end
    finally:
        leaving.cancel()


async def _give_back() -> None:
    """VMs that come and go leave holes in this process's memory."""
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        await asyncio.to_thread(give_back)


async def _serve(settings: Settings) -> None:
    address = address_of(settings)
    names = NameServer(settings)
    app = new_app("Copper", copper.__version__)
    store = SqliteStore(settings.state_dir / "state.sqlite")
    await store.open()
    core = Core(
        store,
        ticket_expires_s=settings.ticket_expires_s,
        report_s=settings.report_s,
        domain=settings.domain.lower().strip("."),
    )
    access = Access(core.book)
    # the same requests as over a network, without one
    gate = Gate()
    inside = httpx2.ASGITransport(
        app=gate.before(access.guarded(app), is_no_call), raise_app_exceptions=False
    )
    client = httpx2.AsyncClient(
        transport=inside, base_url="http://copper", headers=access.own_headers
    )
    peer = Peer(client)
    hosts = links(settings, peer)
    agents = [agent for agent, _ in hosts.values()]
    for name, (_, link) in hosts.items():
        core.hosts.add(name, link)
    front = Front(core.book, core, core.audit, access, lambda: _health(settings, agents[0], names))
    install(
        app,
        front,
        usage_routes(core.accounts, core.book, asking),
        metrics_routes(core.metrics, asking),
        host_routes(agents[0], agents[1:]),
    )
    await core.book.open()
    served = gate.before(Measured(app, core.metrics), only_reads_state)

    async def settle(open_: contextlib.AsyncExitStack) -> None:
        """Finds all VMs again, finishes or undoes what was begun; then everything may be asked."""
        await asyncio.gather(*(agent.adopt() for agent in agents))
        log.info("%d VMs were found again", sum(len(agent.vms.all()) for agent in agents))
        await open_.enter_async_context(core.working())
        await open_.enter_async_context(front.working())
        gate.open()
        await names.start()
        log.info("what was begun is settled")
        _say_ready()

    giving_back = asyncio.create_task(_give_back())
    try:
        async with contextlib.AsyncExitStack() as open_:
            unix = open_.enter_context(unix_socket(settings.api_socket))
            listeners = [Listener(access.trusted(served), unix)]
            if address is not None:
                tcp = open_.enter_context(tcp_socket(address))
                listeners.append(Listener(access.guarded(served), tcp, address))
            end = await open_.enter_async_context(_told_to_end(names))
            await serve_http(listeners, lambda: settle(open_), end)
    finally:
        giving_back.cancel()
        await names.stop()
        for agent in agents:
            await agent.leave()
        await peer.close()
        await store.close()


def serve(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises CopperError when it cannot begin."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for noisy in ("httpx2", "httpcore2", "httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a VM takes some fifteen descriptors
    if settings.trace:
        try:
            trace.begin(Path(settings.trace))
        except OSError as error:
            raise BadInput(f"COPPER_TRACE={settings.trace}: {error.strerror}") from error
    look_at_what_is_new()
    keep_little()
    come_first(-5)  # before the VMs, which would share it out among them
    try:
        stay_resident()
    except OSError as error:
        log.info("this process may be paged out when memory is short: %s", error.strerror)
    with _alone(settings):
        asyncio.run(_serve(settings))


def main() -> int:
    """Exit status as in all commands: 0 ended as told, else the error's."""
    try:
        serve(from_environment())
    except CopperError as error:
        print(f"copper: {error}", file=sys.stderr)
        return error.exit_status
    return 0
