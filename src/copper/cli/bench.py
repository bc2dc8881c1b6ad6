"""`copper bench`: what forks cost here, measured."""

from __future__ import annotations

from pathlib import Path

import click

from copper.cli import here
from copper.cli.arguments import MEMORY, Number


@click.group()
def bench() -> None:
    """Measure."""


@bench.command()
@click.option("--runs", type=Number("n", 1, 10_000), help="Rounds; 30 when not given.")
@click.option("--size", "sizes", type=MEMORY, multiple=True, help="MiB of a guest; repeatable.")
@click.option("--recipe", "recipes", multiple=True, help="A guest's recipe; repeatable.")
@click.option("--quick", is_flag=True, help="A few rounds with the smallest guest.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for bench.json and bench.png; ./bench when not given.",
)
def fork(
    runs: int | None,
    sizes: tuple[int, ...],
    recipes: tuple[str, ...],
    quick: bool,
    out: Path | None,
) -> int:
    """Measure forks beside cold boots, -loadvm and copying, in a Copper of its own.

    Prints a table. Exit status 1 when something of Copper's own could not be measured.
    """
    from copper.bench.fork import main

    return main(
        runs=runs,
        sizes=list(sizes) or None,
        recipes=list(recipes) or None,
        quick=quick,
        out=out,
        settings=here.settings(),
    )
