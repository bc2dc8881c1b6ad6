"""How every command begins and ends: its exit status, one line for an error, and signals.

    0 done                 4 refused
    1 failed               5 conflict with the current state
    2 wrong usage          6 timed out
    3 not found            7 partly done

Ctrl-C ends a command as SIGINT would (130 in a shell), a reader that went away as SIGPIPE would (141).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from copper.cli.output import ReaderGone, drop_output, flush, warn
from copper.model.errors import CopperError

WRONG_USAGE = 2


def run(command: click.Command, name: str, argv: list[str] | None = None) -> NoReturn:
    """Runs a command line to its end; `name` is the program's, as in `gc-vm: …`."""
    _open_standard_files()
    try:
        status = _invoke(command, name, sys.argv[1:] if argv is None else argv)
    except ReaderGone:
        _die_of(signal.SIGPIPE)
    except KeyboardInterrupt:
        _die_of(signal.SIGINT)
    sys.exit(status)


def _open_standard_files() -> None:
    """Whoever closed 0, 1 or 2 gets the null device: a socket of ours must not take their place."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _invoke(command: click.Command, name: str, argv: list[str]) -> int:
    try:
        with command.make_context(name, list(argv)) as context:
            status = command.invoke(context)
            flush()
            return status if isinstance(status, int) else 0
    except click.exceptions.Exit as ended:  # after --help and --version
        flush()
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as bare:
        print(bare.ctx.get_help() if bare.ctx else name, file=sys.stderr)
        return WRONG_USAGE
    except click.UsageError as wrong:
        path = wrong.ctx.command_path if wrong.ctx else name
        warn(name, f"{_sentence(wrong.format_message())} (see {path} --help)")
        return WRONG_USAGE
    except CopperError as error:
        if _debugging():
            raise
        warn(name, str(error))
        return error.exit_status
    except (ReaderGone, KeyboardInterrupt):
        raise
    except BrokenPipeError:
        raise ReaderGone from None
    except Exception as error:
        if _debugging():
            raise
        warn(name, f"unexpected {type(error).__name__}: {error}"[:300] + _logged(name))
        return 1


def _debugging() -> bool:
    return os.environ.get("COPPER_DEBUG", "") not in ("", "0")


def _sentence(text: str) -> str:
    """Click's message in the form of ours: no capital, no full stop."""
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _logged(name: str) -> str:
    """Writes the traceback where it can be found, and says where."""
    import tempfile
    import traceback

    text = f"{' '.join([name, *sys.argv[1:]])}\n{traceback.format_exc()}\n"
    for folder in (_log_dir(), Path(tempfile.gettempdir())):
        if folder is None:
            continue
        # only into a folder that is there: a command that failed makes none
        with contextlib.suppress(OSError):
            fd, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".log", dir=folder)
            with os.fdopen(fd, "w") as file:
                file.write(text)
            return f" (the traceback is in {path})"
    return " (COPPER_DEBUG=1 shows the traceback)"


def _log_dir() -> Path | None:
    from copper.model.settings import from_environment

    try:
        return from_environment().log_dir
    except CopperError:
        return None


def _die_of(number: signal.Signals) -> NoReturn:
    """Ends this process by a signal's own default, so that a shell and its script see it."""
    drop_output()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)
