"""Does what a page of documentation says, as its reader would: in a shell, in a checkout, with a Copper."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.vm.machinery import ROOT, Copper
from tests.vm.pages import Command, is_what_the_page_shows

# Whoever opens a console presses Ctrl-] at some time.
USER = r"""
gc-vm() { if [ "$1" = console ]; then printf '\035' | command gc-vm "$@"; else command gc-vm "$@"; fi; }
"""
MARK = "\x1e"  # ends a command's output; its exit status follows
DEADLINE_S = 600


class Reader:
    """Follows pages with a Copper, in a folder that looks like a checkout.

    `instead`: what pages say, and what it is here. `deadline_s`: for a block of commands.
    """

    def __init__(
        self,
        copper: Copper,
        checkout: Path,
        instead: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
        **variables: str,
    ) -> None:
        self.copper = copper
        self.checkout = checkout
        self.deadline_s = deadline_s
        self.instead = {
            ".venv/bin/": "",
            "/var/lib/copper": str(copper.settings.state_dir),
            **(instead or {}),
        }
        self.environment = {
            **os.environ,
            **copper.environment,
            "COPPER_NATIVE_DIR": str(ROOT / "build"),
            "PYTHONPATH": str(checkout / "src"),  # recipes are beside the sources
            **variables,
        }

    def run(self, script: str) -> str:
        """What a shell prints; every command in it must succeed."""
        done = self._bash("set -eo pipefail", script)
        assert done.returncode == 0, f"{script}\nexit status {done.returncode}:\n{done.stdout}"
        return done.stdout

    def type(self, commands: list[Command]) -> None:
        """Types commands at one prompt, and compares what is printed with what the page shows."""
        # the status survives the mark: a page may ask for it by `echo $?`
        mark = f"status_=$?; printf '{MARK}%d{MARK}' $status_; (exit $status_)"
        typed = "\n".join(f"{command.text}\n{mark}" for command in commands)
        parts = self._bash(typed).stdout.split(MARK)
        assert len(parts) == 2 * len(commands) + 1, parts[-1]
        for command, printed, status in zip(commands, parts[::2], parts[1::2], strict=False):
            said = (
                f"$ {command.text}\n{printed}exit status {status}; the page has\n{command.output}"
            )
            assert is_what_the_page_shows(command.output, printed), said
            assert status == "0" or command.output, said

    def _bash(self, *script: str) -> subprocess.CompletedProcess[str]:
        text = "\n".join(["exec 2>&1", USER, *script])
        for said, here in self.instead.items():
            text = text.replace(said, here)
        return subprocess.run(
            ["bash", "-c", text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=self.checkout,
            env=self.environment,
            timeout=self.deadline_s,
            check=False,
        )
