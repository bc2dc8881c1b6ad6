"""Where a build works: one at a time, in a folder that goes away, with errors that say where."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from copper.image.build.progress import Progress
from copper.model.errors import BadInput, CopperError, NoRoom


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, after waiting for whoever has it; the kernel frees a dead process's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workplace(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in `parent`, removed with all that is in it however the block is left.

    What a killed build of that name left behind is removed first, so hold the name's lock.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(f".{name}_*.part"):
        shutil.rmtree(leftover)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}_", suffix=".part", dir=parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


class Steps:
    """The steps of one build: told to whoever watches, and named in the error that ends one."""

    def __init__(self, recipe: str, progress: Progress) -> None:
        self._recipe = recipe
        self._progress = progress

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        try:
            with self._progress.step(name):
                yield
        except BadInput:
            raise  # the user's to mend, and says all
        except CopperError as error:
            named = type(error)(self._where(name, error.message), advice=error.advice)
            for note in getattr(error, "__notes__", ()):
                named.add_note(note)
            raise named from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = NoRoom if full else CopperError
            raise kind(self._where(name, str(error))) from error

    def _where(self, name: str, what: str) -> str:
        return f"building {self._recipe}, {name}: {what}"
