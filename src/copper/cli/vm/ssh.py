"""`gc-vm ssh`: the user's own ssh to a VM, with the keys of both sides known."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.model.errors import CopperError, NotFound

PORT = 22
PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
LEFT_TO_SSH = (signal.SIGINT, signal.SIGQUIT)  # a terminal sends these to both


@click.command(context_settings={"allow_interspersed_args": False})
@vm_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND …]")
def ssh(vm: str, command: tuple[str, ...]) -> int:
    """Log in to VM as root by ssh, or run COMMAND there.

    The ssh of this machine is run, with what ~/.ssh/config says. It asks nothing: the key is the
    one of the virtual cluster, and VM's host key is known. It goes through Copper, as gc-vm
    connect does. Images say whether they take it: those of recipes with `ssh = true` do.

    \b
    Exit status:
      the command's own; 255  ssh could not log in, and says why
      1-7  Copper could not start it: one line `gc-vm: …` says why
    """
    program = shutil.which("ssh")
    if program is None:
        raise CopperError(
            "there is no ssh here", advice="install openssh-client; gc-vm exec needs none"
        )
    api = here.api()
    row = api.vm(vm)
    login = api.login_key(row["cluster"])
    if not row.get("ssh_host_key"):
        raise NotFound(f"VM {vm} has no SSH host key that is known", advice="gc-vm exec needs none")
    words = list(command[1:] if command[:1] == ("--",) else command)
    with _keys(vm, login["private_key"], row["ssh_host_key"]) as folder:
        return _run([program, *_options(vm, folder), "--", vm, *words])


@contextlib.contextmanager
def _keys(vm: str, private_key: str, host_key: str) -> Iterator[Path]:
    """A folder that nobody else can read, with both in files, until the end of the block."""
    place = os.environ.get("XDG_RUNTIME_DIR")
    place = place if place and os.access(place, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="gc-vm-", dir=place) as name:
        folder = Path(name)
        for file, text in (("key", private_key), ("known_hosts", f"{vm} {host_key}\n")):
            fd = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as to:
                to.write(text)
        yield folder


def _options(vm: str, folder: Path) -> list[str]:
    proxy = shlex.join([str(Path(sys.argv[0]).absolute()), "connect", vm, str(PORT)])
    options = {
        "User": "root",
        "IdentityFile": f'"{folder / "key"}"',
        "IdentitiesOnly": "yes",
        "HostKeyAlias": vm,
        "HostKeyAlgorithms": "ssh-ed25519",
        "UserKnownHostsFile": f'"{folder / "known_hosts"}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ProxyCommand": proxy.replace("%", "%%"),
        "ProxyUseFdpass": "no",
        "ControlPath": "none",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _run(argv: list[str]) -> int:
    """Its exit status, as a shell has it. What ends this command ends ssh first, and the keys' folder goes."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    def leave(_number: int, _frame: FrameType | None) -> None:
        """The terminal has told ssh too."""

    process = subprocess.Popen(argv)
    for number in PASSED_ON:
        signal.signal(number, pass_on)
    for number in LEFT_TO_SSH:
        signal.signal(number, leave)
    status = process.wait()
    return status if status >= 0 else 128 - status
