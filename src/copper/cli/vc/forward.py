"""`gc-vc forward`: ports of the hosts that lead to VMs."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import Number, PortPair, cluster_argument
from copper.cli.listing import Column, format_option, list_rows
from copper.model.errors import BadInput

COLUMNS = [
    Column("host port", "host_port", right=True),
    Column("protocol", "protocol"),
    Column("vmid", "vmid", right=True),
    Column("port", "port", right=True),
]


@click.command()
@cluster_argument
@click.argument("vmid", type=Number("vmid", 0, 999_999_999), required=False)
@click.argument("ports", type=PortPair(), required=False, metavar="[HOSTPORT:PORT]")
@click.option("--udp", is_flag=True, help="UDP instead of TCP.")
@click.option("--remove", type=Number("hostport", 1, 65535), help="Have this port lead nowhere.")
@format_option
def forward(
    name: str,
    vmid: int | None,
    ports: tuple[int, int] | None,
    udp: bool,
    remove: int | None,
    form: str,
) -> None:
    """Have a port of the hosts lead to VM VMID of the virtual cluster NAME, whenever it runs.

    Without VMID, lists what leads to its VMs. A port leads to one VM of all virtual clusters;
    those below 1024 are for an administrator to give.
    """
    api, protocol = here.api(), "udp" if udp else "tcp"
    if remove is not None:
        if vmid is not None:
            raise BadInput("--remove takes no VMID", advice="the host's port says which")
        api.delete_forward(name, protocol, str(remove))
    elif vmid is None:
        rows: list[dict[str, Any]] = api.forwards(name)
        list_rows(rows, COLUMNS, form, name="host_port")
    elif ports is None:
        raise BadInput("HOSTPORT:PORT is missing", advice="such as 8080:80")
    else:
        api.create_forward(name, vmid, ports[0], ports[1], protocol=protocol)
