"""`gc-vm push`: files into a VM."""

from __future__ import annotations

from pathlib import Path

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.output import warn
from copper.model.errors import BadInput, CopperError, PartlyDone


@click.command()
@vm_argument
@click.argument("paths", nargs=-1, required=True, metavar="FILE… DEST")
def push(vm: str, paths: tuple[str, ...]) -> None:
    """Copy files into VM, with their modes and times: to the path DEST, or into DEST when it is a folder.

    A file appears whole or not at all. No network is needed.
    """
    *files, destination = paths
    if not files:
        raise BadInput("a file and a destination are needed", advice="gc-vm push VM FILE… DEST")
    if len(files) > 1 and not destination.endswith("/"):
        destination += "/"  # several files go into a folder, which must be there
    client = here.client()
    failed: list[CopperError] = []
    for file in files:
        try:
            client.push(vm, Path(file), destination)
        except CopperError as error:
            if len(files) == 1:
                raise
            warn("gc-vm", str(error))
            failed.append(error)
    if len(failed) == len(files):
        raise failed[-1]
    if failed:
        raise PartlyDone(f"{len(failed)} of {len(files)} files were not copied")
