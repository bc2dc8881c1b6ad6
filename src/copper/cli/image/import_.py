"""`copper image import`: a distribution's cloud image, given the agent by its own cloud-init and kept as a template."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from copper.cli import here
from copper.cli.arguments import DISK, IMAGE, cpus_option, memory_option
from copper.cli.steps import Steps, ended_as_interrupted


@click.command(name="import")
@click.argument("name", type=IMAGE)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["qcow2", "raw"]),
    default="qcow2",
    show_default=True,
    help="What FILE is; it is never guessed.",
)
@memory_option
@cpus_option
@click.option("--disk", "disk_mib", type=DISK, help="Size of the disk, MiB; it only grows.")
@click.option("--replace", is_flag=True, help="An image of this name gives way at the end.")
def import_(
    name: str,
    file: Path,
    form: Literal["qcow2", "raw"],
    memory_mib: int | None,
    cpus: int | None,
    disk_mib: int | None,
    replace: bool,
) -> None:
    """Make image NAME of a distribution's cloud image FILE, which is only read.

    Its own boot loader starts it, and its own cloud-init puts Copper's agent in; then it is booted again to a ready
    agent and a quiet machine, frozen and stored. A FILE that leads to other files is refused, and so is one without
    a boot loader for a BIOS.
    """
    from copper.host.foreign import import_template

    ended_as_interrupted()
    import_template(
        here.settings(),
        name,
        file,
        form,
        memory_mib=memory_mib,
        cpus=cpus or 1,
        disk_mib=disk_mib,
        replace=replace,
        progress=Steps(),
    )
