"""`gc-vm pull`: files out of a VM."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.vm.push import check_path
from copper.model.errors import BadInput, Conflict, NotFound


@click.command()
@vm_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.argument("destination", metavar="DEST")
def pull(vm: str, files: tuple[str, ...], destination: str) -> None:
    """Copy FILEs out of VM, with their mode and time. No network is needed.

    DEST is a folder here, or for one FILE the path that it gets. A file appears whole or not at
    all. For a folder: gc-vm exec VM -- tar c FOLDER | tar x -C DEST
    """
    from copper.cli.vm.transfer import each

    for file in files:
        check_path(file)
        if PurePosixPath(file).name in ("", ".."):
            raise BadInput(f"{file!r} is a folder, and only files are pulled")
    target = _target(destination, several=len(files) > 1)
    client = here.client()

    def fetch(file: str) -> None:
        path = target / PurePosixPath(file).name if target.is_dir() else target
        if path.is_dir():
            raise Conflict(f"{path} is a folder")
        client.pull(vm, file, path)

    each(files, fetch)


def _target(destination: str, *, several: bool) -> Path:
    """The local path. Raises for one where nothing can be put, before anything is fetched."""
    path = Path(destination)
    try:
        if path.is_dir():
            return path
        if several or destination.endswith("/"):
            raise NotFound(f"there is no folder {destination}")
        if not path.parent.is_dir():
            raise NotFound(f"there is no folder {path.parent}")
    except (OSError, ValueError) as error:
        raise BadInput(f"{destination[:60]!r}: {error}") from None
    return path
