"""`copper dns`: answers names, here for a Copper anywhere."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.output import flush, say
from copper.model.errors import BadInput


@click.command()
def dns() -> None:
    """Answer names of virtual clusters and VMs over DNS, until Ctrl-C.

    copper up starts one of its own; this is for another machine, or another address: COPPER_DNS says where,
    COPPER_DOMAIN below which domain, COPPER_DNS_FORWARD who answers other names, COPPER_URL which Copper's names.
    """
    import asyncio
    import signal

    from copper.client import Client
    from copper.dns.options import bound, options_of
    from copper.dns.serve import serve

    options = options_of(here.settings())
    if options.at is None:
        raise BadInput("COPPER_DNS is off", advice="expected ADDRESS:PORT, such as 127.0.0.1:10053")

    async def run() -> None:
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        await serve(options, Client(), sockets, None, end)

    with bound(options.at) as sockets:
        say(f"names below {options.domain} are answered at {sockets.at}")
        flush()
        asyncio.run(run())
