"""`copper bench`: what forks cost here and what the controller bears, measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from copper.cli import here
from copper.cli.arguments import MEMORY, Amount, Number

F = TypeVar("F", bound=Callable[..., Any])


def _into(files: str) -> Callable[[F], F]:
    """--out, of a bench that writes these files."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"The folder for {files}; ./bench when not given.",
    )


@click.group()
def bench() -> None:
    """Measure."""


@bench.command()
@click.option("--runs", type=Number("n", 1, 10_000), help="Rounds; 30 when not given.")
@click.option("--size", "sizes", type=MEMORY, multiple=True, help="MiB of a guest; repeatable.")
@click.option("--recipe", "recipes", multiple=True, help="A guest's recipe; repeatable.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    help="What else is measured beside them: loadvm-many, virsh, criu or all; repeatable.",
)
@click.option("--quick", is_flag=True, help="A few rounds with the smallest guest.")
@_into("bench.json and bench.png")
def fork(
    runs: int | None,
    sizes: tuple[int, ...],
    recipes: tuple[str, ...],
    peers: tuple[str, ...],
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
        peers=peers,
        quick=quick,
        out=out,
        settings=here.settings(),
    )


class Parts(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "parts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(part for part in str(value).split(",") if part)


@bench.command()
@click.option(
    "--only", type=Parts(), default="", help="Of tickets, saturated, scale and recovery, by commas."
)
@click.option("--seconds", type=Amount("s", 3600), help="Of tickets at a steady rate; 30.")
@click.option("--rounds", type=Number("n", 1, 10_000), help="Of saturated and recovery; 10.")
@_into("bench-controller.json")
def controller(
    only: tuple[str, ...], seconds: float | None, rounds: int | None, out: Path | None
) -> int:
    """Measure the controller: tickets over HTTP, as many as can be, among 100,000 VMs, after kill -9.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.controller import main

    return main(only=only, seconds=seconds, rounds=rounds, out=out, settings=here.settings())


@bench.command()
@click.option("--only", type=Parts(), default="", help="Of steady, most and change, by commas.")
@click.option("--seconds", type=Amount("s", 3600), default=3.0, help="Of each kind in a round; 3.")
@click.option("--rounds", type=Number("n", 1, 10_000), default=10, help="Rounds; 10.")
@_into("bench-dns.json")
def dns(only: tuple[str, ...], seconds: float, rounds: int, out: Path | None) -> int:
    """Measure names: how fast they are answered, how many, and how soon they are right.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.dns import main

    return main(only=only, seconds=seconds, rounds=rounds, out=out, settings=here.settings())


@bench.command()
@click.option("--rounds", type=Number("n", 1, 10_000), help="Rounds; 30 when not given.")
@click.option(
    "--image",
    default="micro",
    help="The guest's recipe; micro when not given. debian-12-dev has the bindings to measure.",
)
@_into("bench-guest.json")
def guest(rounds: int | None, image: str, out: Path | None) -> int:
    """Measure calls of the guest API in real guests: gc itself, a barrier and a join of 32 clones.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.guest import main

    return main(rounds=rounds, image=image, out=out, settings=here.settings())


@bench.command()
@click.option("--rounds", type=Number("n", 1, 10_000), help="Rounds; 10 when not given.")
@click.option(
    "--size",
    "sizes",
    type=Number("n", 1, 1024),
    multiple=True,
    help="Clones of one call; repeatable. 1, 2, 4, 8, 16, 32, 60 and 128 when not given.",
)
@click.option(
    "--forks-only", is_flag=True, help="Not: standbys, ends, machines that ping each other."
)
@_into("bench-fanout.json, fanout.json and fanout.png")
def fanout(rounds: int | None, sizes: tuple[int, ...], forks_only: bool, out: Path | None) -> int:
    """Measure forks into many, and draw one of them step by step.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.fanout import main

    return main(
        rounds=rounds,
        sizes=sizes or None,
        forks_only=forks_only,
        out=out,
        settings=here.settings(),
    )


@bench.command()
@click.option("--turns", type=Number("n", 2, 10_000), help="In a row; 20 when not given.")
@click.option("--clones", type=Number("n", 1, 1024), default=100, help="Of each turn; 100.")
@_into("bench-repurpose.json")
def repurpose(turns: int | None, clones: int, out: Path | None) -> int:
    """Measure ending all clones of one virtual cluster and growing another, again and again.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.repurpose import main

    return main(turns=turns, clones=clones, out=out, settings=here.settings())


@bench.command()
@click.option("--rounds", type=Number("n", 1, 10_000), help="Rounds; 5 when not given.")
@click.option("--clones", type=Number("n", 1, 1024), default=40, help="At once; 40.")
@click.option("--wait", type=Amount("s", 86_400), default=60.0, help="For what grows; 60.")
@_into("bench-memory.json")
def memory(rounds: int | None, clones: int, wait: float, out: Path | None) -> int:
    """Measure what clones cost in memory, byte by byte, and what the host lost by them.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.footprint import main

    return main(rounds=rounds, clones=clones, wait_s=wait, out=out, settings=here.settings())


@bench.command()
@click.option("--rounds", type=Number("n", 1, 10_000), help="Rounds; 10 when not given.")
@click.option("--depth", type=Number("n", 1, 1000), default=32, help="Generations; 32.")
@_into("bench-depth.json")
def depth(rounds: int | None, depth: int, out: Path | None) -> int:
    """Measure forks of forks, many generations deep.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.depth import main

    return main(rounds=rounds, deepest=depth, out=out, settings=here.settings())


@bench.command()
@click.option("--rounds", type=Number("n", 1, 10_000), help="Rounds; 30 when not given.")
@click.option(
    "--image",
    default="debian-12-dev",
    help="The guests' recipe, with Python and its sqlite3; debian-12-dev when not given.",
)
@_into("bench-warm.json")
def warm(rounds: int | None, image: str, out: Path | None) -> int:
    """Measure how much slower a warm clone is than a VM that was booted cold.

    Prints tables. Exit status 1 when something could not be measured.
    """
    from copper.bench.warm import main

    return main(rounds=rounds, image=image, out=out, settings=here.settings())


@bench.command()
@click.option("--clones", type=Number("n", 1, 5000), default=400, help="400.")
@click.option("--size", type=MEMORY, default=256, help="MiB of each guest; 256.")
@click.option("--write", type=MEMORY, default=96, help="MiB that each comes to use; 96.")
@click.option("--watch", type=Amount("s", 86_400), default=900.0, help="At most; 900.")
@click.option(
    "--within",
    type=MEMORY,
    help="MiB that they may come to use before they are paused; what the host has when not given.",
)
@_into("bench-oversubscribe.json")
def oversubscribe(
    clones: int, size: int, write: int, watch: float, within: int | None, out: Path | None
) -> int:
    """Run more guest memory than the host has, and have all of it used.

    Prints a table of who was paused and ended, and why nobody lost a byte. Exit status 1 when it could not be done.
    """
    from copper.bench.oversubscribe import main

    return main(
        clones=clones,
        memory_mib=size,
        write_mib=write,
        watch_s=watch,
        within_mib=within or 0,
        out=out,
        settings=here.settings(),
    )


@bench.command()
@click.option("--minutes", type=click.FloatRange(0.05, 100_000), default=60.0, help="60.")
@click.option("--vms", type=Number("n", 8, 5000), default=200, help="At most; 200.")
@click.option("--seed", type=Number("n", 0, 1 << 30), help="Of what is chosen at random.")
@_into("bench-soak.json")
def soak(minutes: float, vms: int, seed: int | None, out: Path | None) -> int:
    """Fork, end, pause and suspend VMs at random, and look for what grows, is left or is wrong.

    Prints a table. Exit status 1 when something was wrong.
    """
    from copper.bench.soak import main

    return main(minutes=minutes, vms=vms, seed=seed, out=out, settings=here.settings())
