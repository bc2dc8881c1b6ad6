"""`gc-vm pull`: files out of a VM."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.output import warn
from copper.model.errors import BadInput, CopperError, PartlyDone


@click.command()
@vm_argument
@click.argument("paths", nargs=-1, required=True, metavar="FILE… DEST")
def pull(vm: str, paths: tuple[str, ...]) -> None:
    """Copy files out of VM, with their modes and times: to the path DEST, or into DEST when it is a folder.

    A file appears whole or not at all. No network is needed.
    """
    *files, last = paths
    if not files:
        raise BadInput("a file and a destination are needed", advice="gc-vm pull VM FILE… DEST")
    destination = Path(last)
    if (len(files) > 1 or last.endswith("/")) and not destination.is_dir():
        raise BadInput(f"{last} is no folder", advice="several files go into a folder")
    client = here.client()
    failed: list[CopperError] = []
    for file in files:
        target = destination / PurePosixPath(file).name if destination.is_dir() else destination
        try:
            client.pull(vm, file, target)
        except CopperError as error:
            if len(files) == 1:
                raise
            warn("gc-vm", str(error))
            failed.append(error)
    if len(failed) == len(files):
        raise failed[-1]
    if failed:
        raise PartlyDone(f"{len(failed)} of {len(files)} files were not copied")
