"""`copper doctor`: what this machine has, what it lacks, and how to mend it."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.output import say


@click.command()
def doctor() -> int:
    """Examine this machine. Changes nothing.

    One line for each thing: `ok`, `note` (Copper works without it, or it is worth knowing) or
    `lacking`, and how to mend it. Exit status 0, or 1 when something is lacking.
    """
    from copper.cli.node.checks import examine

    found = list(examine(here.settings()))
    for finding in found:
        advice = f" ({finding.advice})" if finding.advice else ""
        say(f"{finding.verdict:8} {finding.what:16} {finding.detail}{advice}")
    return 1 if any(finding.verdict == "lacking" for finding in found) else 0
