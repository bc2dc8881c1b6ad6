"""`copper up`: starts the Copper of this machine."""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from copper.cli import here
from copper.cli.output import say
from copper.model.errors import Conflict, CopperError, Refused, TimedOut
from copper.model.settings import Settings

if TYPE_CHECKING:
    from copper.model.api import Health

START_S = 60.0  # a machine with many VMs finds all of them again first


@click.command()
@click.option("--foreground", is_flag=True, help="Serve in this process until SIGTERM or Ctrl-C.")
@click.option(
    "--fake", is_flag=True, help="Machines without QEMU, to try Copper's commands and API."
)
def up(foreground: bool, fake: bool) -> None:
    """Start Copper on this machine, in the background. One that runs already is left as it is."""
    settings = here.settings()
    if fake:
        settings = dataclasses.replace(settings, fake=True)
    if foreground:
        from copper.node.serve import serve

        with _named_permissions(settings):
            serve(settings)
        return
    health, started = ensure_up(settings)
    if settings.fake and health.accelerator != "fake":
        raise Conflict("Copper runs already, with real machines", advice="copper down ends it")
    say(f"Copper {'runs' if started else 'runs already'}: {describe(health)}")


def describe(health: Health) -> str:
    """One line about a Copper that serves."""
    accelerator = {"kvm": "KVM", "tcg": "emulation", "fake": "fake machines"}.get(
        health.accelerator, health.accelerator
    )
    if not health.accelerator_proven:
        accelerator += " if the first image's guest runs with it"
    names = f", names at {health.dns}" if health.dns else ""
    return f"version {health.version}, process {health.pid}, {accelerator}{names}, state in {health.state_dir}"


def ensure_up(settings: Settings) -> tuple[Health, bool]:
    """The health of the Copper that serves here, and whether it had to be started.

    Raises CopperError with the last line of its log when it does not start.
    """
    from copper.client import Client
    from copper.client.http import NotRunning

    client = Client(settings)
    try:
        return client.health(timeout_s=START_S), False
    except NotRunning:
        pass
    with _named_permissions(settings):
        _start(settings)
    return client.health(timeout_s=START_S), True


def _start(settings: Settings) -> None:
    """Returns once it serves, which it says through a pipe."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    log = settings.log_dir / "copper.log"
    ready, tell = os.pipe()
    with log.open("ab") as output, os.fdopen(ready) as starter:
        began = output.tell()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "copper.node"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={**os.environ, **environment_of(settings), "COPPER_READY_FD": str(tell)},
                pass_fds=[tell],
                start_new_session=True,  # neither Ctrl-C nor the end of this terminal ends it
            )
        finally:
            os.close(tell)
        deadline = time.monotonic() + START_S
        if not select.select([starter], [], [], START_S)[0]:
            process.terminate()
            raise TimedOut(
                f"Copper did not serve within {START_S:.0f} s: {_last_line(log, began)}",
                advice=f"its log: {log}",
            )
        if starter.readline() != "ready\n":
            process.wait(max(1.0, deadline - time.monotonic()))
            raise CopperError(
                f"Copper did not start: {_last_line(log, began)}",
                advice="copper doctor says what this machine lacks",
            )


def environment_of(settings: Settings) -> dict[str, str]:
    """What a child must know to serve the same Copper from another folder."""
    return {
        "COPPER_STATE_DIR": str(settings.state_dir),
        "COPPER_RUN_DIR": str(settings.run_dir),
        "COPPER_NATIVE_DIR": str(settings.native_dir),
        "COPPER_CPU_RATIO": f"{settings.cpu_ratio:g}",
        "COPPER_FAKE": str(int(settings.fake)),
        "COPPER_TRACE": settings.trace and str(Path(settings.trace).absolute()),
    }


def _last_line(log: Path, began: int) -> str:
    """What it said last; only of this start."""
    with log.open("rb") as file:
        file.seek(began)
        lines = file.read()[-4096:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return last.removeprefix("copper: ")[-300:]


@contextmanager
def _named_permissions(settings: Settings) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise Refused(
            f"no permission for {error.filename or settings.state_dir}",
            advice="run it as root, or set COPPER_STATE_DIR and COPPER_RUN_DIR",
        ) from error
    except OSError as error:
        raise CopperError(f"{error.filename or settings.state_dir}: {error.strerror}") from error
