"""`gc-vm push`: files into a VM."""

from __future__ import annotations

from pathlib import Path

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.model.errors import BadInput


@click.command()
@vm_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.argument("destination", metavar="DEST")
def push(vm: str, files: tuple[str, ...], destination: str) -> None:
    """Copy FILEs into VM, with their mode and time. No network is needed.

    DEST is a folder in VM, or for one FILE the path that it gets there. A file appears whole or
    not at all. For a folder: tar c FOLDER | gc-vm exec VM -- tar x -C DEST
    """
    from copper.cli.vm.transfer import each
    from copper.client.files import check_file

    check_path(destination)
    paths = [Path(file) for file in files]
    for path in paths:
        check_file(path)  # all of them, before the first is sent
    folder = len(paths) > 1 or destination.endswith("/")
    client = here.client()

    def send(path: Path) -> None:
        # below a path that is no folder nothing can be made, so the guest itself refuses it
        client.push(vm, path, f"{destination.rstrip('/')}/{path.name}" if folder else destination)

    each(paths, send)


def check_path(path: str) -> None:
    """Raises BadInput for what cannot be a path in a VM."""
    if not path or "\0" in path or len(path.encode(errors="replace")) > 4095:
        raise BadInput(f"{path[:60]!r} is not a path in a VM", advice="expected 1 to 4095 bytes")
