"""`gc-vc create`: writes down a virtual cluster; no VM starts yet."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import IMAGE, cluster_argument, cpus_option, memory_option


@click.command()
@cluster_argument
@click.option("--image", type=IMAGE, required=True, help="A stored image: copper image list.")
@memory_option
@cpus_option
def create(name: str, image: str, memory_mib: int | None, cpus: int | None) -> None:
    """Make a virtual cluster NAME whose master boots from an image.

    Memory and processors follow the image when they are not given. Prints nothing.
    """
    from copper.client.calls import new_cluster

    here.client().call("POST", "/v1/clusters", new_cluster(name, image, memory_mib, cpus))
