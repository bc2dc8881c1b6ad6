"""`python -m copper.dns LENDING [UDP TCP]`: serves on sockets that it inherits, until its standard input ends.

Their descriptors: where others lend theirs, and the two that answer everybody.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

from copper.client import Client
from copper.dns.options import Sockets, options_of
from copper.dns.serve import serve
from copper.model.errors import CopperError
from copper.model.settings import Settings, from_environment
from copper.priority import come_first

NICE = -5  # before the VMs, as the node itself


async def _serve(settings: Settings, lending: socket.socket, sockets: Sockets | None) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    # whoever started it holds the other end: when that ends, however it does, so does this
    loop.add_reader(sys.stdin.fileno(), end.set)
    await serve(options_of(settings), Client(settings), sockets, lending, end)


def main() -> int:
    """Exit status as in all commands: 0 ended as told, else the error's."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the node's, which ends this one
    come_first(NICE)
    lending, *pair = (socket.socket(fileno=int(text)) for text in sys.argv[1:])
    try:
        asyncio.run(_serve(from_environment(), lending, Sockets(*pair) if pair else None))
    except CopperError as error:
        print(f"copper dns: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
