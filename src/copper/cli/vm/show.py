"""`gc-vm show`: one VM, as the controller and its host know it."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.listing import (
    Column,
    format_option,
    mib,
    milliseconds,
    moment,
    number_of_mib,
    show_row,
)
from copper.cli.vm.list import COLUMNS
from copper.model.errors import NotFound

MORE = [
    Column("address (IPv6)", "ip6"),
    Column("owner", "owner"),
    Column("ticket", "ticket"),
    Column("reason", "reason"),
    Column("created", "created", moment),
    Column("memory", "status.shape.memory_mib", number_of_mib),
    Column("own memory", "status.own_bytes", mib),
    Column("shared memory", "status.shared_bytes", mib),
    Column("cpus", "status.shape.cpus"),
    Column("image", "status.template"),
    Column("layers", "status.layers"),
    Column("disks", "status.disks"),
    Column("ready after", "status.ready_ms", milliseconds),
    Column("last pause", "status.last_pause_ms", milliseconds),
    Column("accelerator", "status.needs.accelerator"),
    Column("pid", "status.pid"),
    Column("SSH host key", "ssh_host_key"),
]


@click.command()
@vm_argument
@format_option
def show(vm: str, form: str) -> None:
    """Show one VM.

    json is the API's body of the VM, with the member `status` for what its host knows of it, or
    null.
    """
    api = here.api()
    row = api.vm(vm)
    try:
        row["status"] = api.status(vm)
    except NotFound:
        row["status"] = None  # it has ended
    show_row(row, COLUMNS + MORE, form)
