"""`copper image build`: a guest image from a recipe, booted once and kept as a template."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import DISK, IMAGE, cpus_option, memory_option
from copper.cli.steps import Steps, ended_as_interrupted


@click.command()
@click.argument("name", type=IMAGE)
@click.option(
    "--recipe", required=True, help="micro, debian-12 or debian-12-dev; docs/reference/recipes.md."
)
@click.option("--package", "packages", multiple=True, help="One more Debian package; repeatable.")
@memory_option
@cpus_option
@click.option("--disk", "disk_mib", type=DISK, help="Size of the disk, MiB.")
@click.option("--replace", is_flag=True, help="An image of this name gives way at the end.")
def build(
    name: str,
    recipe: str,
    packages: tuple[str, ...],
    memory_mib: int | None,
    cpus: int | None,
    disk_mib: int | None,
    replace: bool,
) -> None:
    """Build image NAME: install, boot once to a ready agent and a quiet machine, freeze, store.

    An image that is there and made of the very same is left as it is.
    """
    from copper.host.template import build_template

    ended_as_interrupted()
    steps = Steps()
    build_template(
        here.settings(),
        name,
        recipe,
        packages=packages,
        memory_mib=memory_mib,
        cpus=cpus or 1,
        disk_mib=disk_mib,
        replace=replace,
        progress=steps,
    )
