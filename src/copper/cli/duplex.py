"""Joins this process's input, outputs and signals to a stream, until its other end is over.

Everything is in one loop over poll: a reader that takes nothing stops what comes, a VM that takes
nothing stops what is read, and neither keeps a signal from going through.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from copper.cli.output import cannot_write
from copper.client.streams import CHUNK, ENOUGH, Stream
from copper.model.errors import CopperError

PATIENCE = 3  # so many signals of one kind end the command here, whatever the VM does
_PIECE = 4096  # a pipe that poll calls writable takes so much at once: select(2), PIPE_BUF


class Impatient(Exception):
    """The user asked for the end again and again."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """Signals as bytes that can be read from a pipe."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self._counts = dict.fromkeys(numbers, 0)
        self.pipe, self._into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def _raised(self, number: int, _frame: FrameType | None) -> None:
        self._counts[number] += 1
        if self._counts[number] >= PATIENCE and number != signal.SIGWINCH:
            raise Impatient(number)
        with contextlib.suppress(OSError):  # a full pipe has enough of them
            os.write(self._into, bytes([number]))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """These signals come here, until the block ends."""
        before = {number: signal.signal(number, self._raised) for number in self._counts}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self.pipe)
            os.close(self._into)


class Duplex:
    """A stream and this process.

    `on_input` gets each piece of standard input, b"" at its end, and says whether to go on reading;
    `on_message` gets what comes: (descriptor, bytes) to write, or None, and whether it is the end.
    """

    def __init__(
        self,
        stream: Stream,
        signals: Signals,
        *,
        on_input: Callable[[bytes], bool],
        on_signal: Callable[[int], None],
        on_message: Callable[[bytes | dict[str, Any]], tuple[int, bytes] | bool],
    ) -> None:
        self._stream = stream
        self._signals = signals
        self._on_input, self._on_signal, self._on_message = on_input, on_signal, on_message
        self._unwritten = {1: bytearray(), 2: bytearray()}
        self._input_open = True
        self._over = False

    def serve(self) -> None:
        """Returns once the other end is over or `stop` was called. Raises what ended the stream.

        All that came before the end is written first, in either case.
        """
        try:
            while not self._over:
                waiting = sum(map(len, self._unwritten.values()))
                if waiting < ENOUGH and (message := self._stream.received()) is not None:
                    told = self._on_message(message)
                    if isinstance(told, tuple):
                        self._unwritten[told[0]] += told[1]
                    else:
                        self._over = told
                    continue
                self._turn(reading=waiting < ENOUGH)
        except CopperError:
            self._finish()
            raise
        self._finish()

    def _finish(self) -> None:
        self._over = True
        while any(self._unwritten.values()):
            self._turn(reading=False)

    def stop(self) -> None:
        self._over = True

    def _turn(self, *, reading: bool) -> None:
        others = {self._signals.pipe: select.POLLIN}
        if self._input_open and self._stream.has_room and not self._over:
            others[0] = select.POLLIN
        others |= {fd: select.POLLOUT for fd, data in self._unwritten.items() if data}
        ready = self._stream.turn(others, reading=reading)
        for fd in ready:
            if fd == self._signals.pipe:
                for number in os.read(fd, 64):
                    self._on_signal(number)
            elif fd == 0:
                self._take_input()
            else:
                self._write(fd)

    def _take_input(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal that hung up, or no standard input at all
        if not self._on_input(data) or not data:
            self._input_open = False

    def _write(self, fd: int) -> None:
        data = self._unwritten[fd]
        try:
            del data[: os.write(fd, data[:_PIECE])]
        except BlockingIOError:
            return
        except OSError as error:
            if fd == 1 and error.errno != errno.EIO:  # EIO: a terminal that hung up
                raise cannot_write(error) from error
            data.clear()
