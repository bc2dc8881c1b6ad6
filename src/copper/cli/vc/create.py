"""`gc-vc create`: writes down a virtual cluster; no VM starts yet."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import (
    IMAGE,
    USER,
    Attached,
    Word,
    cluster_argument,
    cpus_option,
    memory_option,
    most,
    most_options,
)


@click.command()
@cluster_argument
@click.option("--image", type=IMAGE, required=True, help="A stored image: copper image list.")
@memory_option
@cpus_option
@click.option(
    "--memory-class",
    type=click.Choice(["guaranteed", "shared"]),
    default="shared",
    show_default=True,
    help="Reserve all memory of each VM, or what clones are expected to write.",
)
@click.option(
    "--placement",
    type=click.Choice(["near", "pack", "spread"]),
    default="near",
    show_default=True,
    help="Clones beside their parent, on as few hosts as will do, or on as many.",
)
@click.option(
    "--network",
    "attached",
    type=Attached(),
    multiple=True,
    metavar="NAME[,master-only]",
    help="A public network that each VM gets an address of, or the master alone; repeatable.",
)
@click.option(
    "--egress",
    metavar="open|none|PREFIX,...",
    help="What of the world it reaches: open with a public network and none without, if not given.",
)
@click.option("--require-tag", "tags", type=Word("tag"), multiple=True, help="Repeatable.")
@click.option("--require-network", "networks", type=Word("network"), multiple=True)
@click.option("--require-storage", "storage", type=Word("storage"), multiple=True)
@most_options("it")
@click.option("--owner", type=USER, help="Whose it is; only an administrator may name another.")
def create(
    name: str,
    image: str,
    attached: tuple[dict[str, Any], ...],
    tags: tuple[str, ...],
    networks: tuple[str, ...],
    storage: tuple[str, ...],
    max_vms: Any,
    max_cpus: Any,
    max_memory: Any,
    **options: Any,
) -> None:
    """Make a virtual cluster NAME whose master boots from an image.

    Memory and processors follow the image when they are not given. Its VMs run on hosts only that
    have all that is required: gc-host stat. Prints nothing.
    """
    here.api().create(
        name,
        image,
        requires={"tags": list(tags), "networks": list(networks), "storage": list(storage)},
        networks=list(attached) or None,
        limits=most({}, max_vms, max_cpus, max_memory),
        **options,
    )
