"""The one door to other programs: runs one to its end, and turns a failure into one clear line.

What failed can be pasted into a shell: the error's advice is the command, unless it is very long.
The command and the last lines of its output travel along as a note (`__notes__`), for logs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from copper.model.errors import CopperError, NoRoom, TimedOut

# The Debian package of each program that a minimal machine may lack.
PACKAGES = {
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "prlimit": "util-linux",
    "qemu-img": "qemu-utils",
    "unshare": "util-linux",
}

_NOTE_LINES = 20
_LONGEST_ADVICE = 400  # characters; a longer command is in the note alone


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    called: str = "",
    fine: Collection[int] = (0,),
) -> str:
    """Run a program without input and return what it wrote to standard output.

    `env` is added to this process's environment; messages are always in English. `timeout` is in
    seconds. The program has a session of its own: when this call is interrupted, by Ctrl-C or by a
    deadline, the program and its children in that session are ended before the call returns.
    `called` is the program that messages name, where it is not the command's first word. Statuses that are `fine` are
    no failures.

    Raises CopperError when the program is missing or fails, NoRoom when it fails for want of disk
    space, TimedOut at the deadline.
    """
    command = [str(word) for word in argv]
    full_env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    # depmod and mke2fs live in sbin, which is not on every user's path
    full_env["PATH"] = full_env.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    name = called or Path(command[0]).name
    if not shutil.which(called or command[0], path=full_env["PATH"]):
        package = PACKAGES.get(name)
        advice = f"apt-get install {package}" if package else "it is not on the PATH"
        raise CopperError(f"{name} is not installed", advice=advice)
    with _started(command, full_env, cwd) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TimedOut(
                f"{name} did not end within {timeout:g} s", advice=shlex.join(command)
            ) from None
    if process.returncode not in fine:
        raise _failure(name, command, process.returncode, out + err, err or out)
    return out


@contextlib.contextmanager
def _started(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None
) -> Iterator[subprocess.Popen[str]]:
    """The program, started, and ended with its whole session however the block is left."""
    process = subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the whole session to end, then insist."""
    for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=patience)
            return


def _failure(
    name: str, command: Sequence[str], status: int, output: str, reasons: str
) -> CopperError:
    lines = [line.strip() for line in reasons.splitlines() if line.strip()]
    how = f"status {status}" if status >= 0 else signal.Signals(-status).name
    kind = NoRoom if "No space left on device" in output else CopperError
    pasteable = shlex.join(command)
    error = kind(
        f"{name} failed ({how}): {telling(lines)}",
        advice=pasteable if len(pasteable) <= _LONGEST_ADVICE else "",
    )
    error.add_note("\n".join([f"$ {pasteable}", *output.splitlines()[-_NOTE_LINES:]]))
    return error


def telling(lines: Sequence[str]) -> str:
    """The line that says why: what apt or mmdebstrap mark as the cause, else the last."""
    causes = (
        [line for line in lines if "No space left on device" in line],
        # after these, apt sums up without a reason
        [line for line in lines if "Failed to fetch" in line],
        [line for line in lines if line.startswith("E: ") and not line.startswith("E: mm")],
        lines,
        ["it said nothing"],
    )
    return next(found for found in causes if found)[-1].removeprefix("E: ").removeprefix("W: ")
