"""One machine's Copper in one process: controller and host agent, which speak HTTP all the same.

`python -m copper.node` serves until it is told to end; VMs outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator

import httpx2
import uvicorn

import copper
from copper.controller.api import routes as controller_routes
from copper.controller.core import Core
from copper.controller.hosts import Host, HttpHost
from copper.host.agent import HostAgent
from copper.host.api import routes as host_routes
from copper.host.controller_link import ControllerLink
from copper.model.api import Health
from copper.model.errors import Conflict, CopperError
from copper.model.settings import Settings, from_environment
from copper.store.sqlite import SqliteStore
from copper.wire.app import new_app
from copper.wire.http import Peer

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


def _listen(settings: Settings) -> socket.socket:
    path = settings.api_socket
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(512)
    return sock


class _Server(uvicorn.Server):
    """A server that ends when told to; uvicorn's own then raises the signal again, before VMs are let go."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
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


def _health(settings: Settings, agent: HostAgent) -> Health:
    verdict = agent.verdict
    return Health(
        version=copper.__version__,
        pid=os.getpid(),
        host=agent.name,
        accelerator="fake" if settings.fake else verdict.accelerator,
        accelerator_reason=verdict.reason,
        accelerator_proven=verdict.proven,
        state_dir=str(settings.state_dir),
    )


async def _serve(settings: Settings) -> None:
    app = new_app("Copper", copper.__version__)
    # the same requests as over a network, without one
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    peer = Peer(httpx2.AsyncClient(transport=transport, base_url="http://copper"))
    hosts = links(settings, peer)
    agents = [agent for agent, _ in hosts.values()]
    store = SqliteStore(settings.state_dir / "state.sqlite")
    await store.open()
    core = Core(store, ticket_expires_s=settings.ticket_expires_s, report_s=settings.report_s)
    for name, (_, link) in hosts.items():
        core.hosts.add(name, link)
    app.include_router(controller_routes(core, lambda: _health(settings, agents[0])))
    app.include_router(host_routes(agents[0], agents[1:]))
    try:
        await asyncio.gather(*(agent.adopt() for agent in agents))
        server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
                ws_max_size=1 << 20,
                ws_ping_interval=None,
            )
        )
        async with core.working():
            with _listen(settings) as sock:
                log.info("serving on %s", settings.api_socket)
                _say_ready()
                await server.serve(sockets=[sock])
    finally:
        for agent in agents:
            await agent.leave()
        await peer.close()
        await store.close()
        settings.api_socket.unlink(missing_ok=True)


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


if __name__ == "__main__":
    sys.exit(main())
