"""Answers that were worked out once, for all who ask the same until a name changes.

What differs between two of the same questions is put in anew: the number, the case of the name (a resolver checks that
it comes back as it was sent), and whose address is first.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

HEAD = 12  # bytes of a message's header (RFC 1035)
LONGEST_NAME = 255
MOST_BYTES = 32 << 20  # of all that is kept
EACH_BYTES = 700  # that Python takes for an answer besides its bytes
_OPT = b"\0\0\x29"  # an OPT record begins: the root's name and its type (RFC 6891)
_SIZES = {
    1: 16,
    28: 28,
}  # by type: bytes of a record whose name is two bytes that point to the question

Key = tuple[bytes, bytes, bytes, bool]


class Usual(NamedTuple):
    """A question as clients write them: where its name ends, and what else the answer follows from."""

    end: int
    key: Key


def usual_form(asked: bytes, tcp: bool) -> Usual | None:
    """None for what has another form than a name, a type, a class and maybe an OPT record."""
    length, at = len(asked), HEAD
    while at < length and (label := asked[at]):
        if label > 63:
            return None
        at += label + 1
    end = at + 1
    if end - HEAD > LONGEST_NAME or end + 4 > length:
        return None
    rest = asked[end:]
    if len(rest) > 4:
        if len(rest) < 15 or rest[4:7] != _OPT:
            return None
        at = 15
        if len(rest) != at + (rest[13] << 8 | rest[14]):
            return None
        while at + 4 <= len(rest):
            at += 4 + (rest[at + 2] << 8 | rest[at + 3])
        if at != len(rest):
            return None
        rest = rest[:13]  # no option changes an answer: a cookie is another one each time
    return Usual(end, (asked[2:HEAD], asked[HEAD:end].lower(), rest, tcp))


class _Answer(NamedTuple):
    """An answer in pieces: header, type and class, addresses of `size` bytes each, and the rest."""

    head: bytes
    kind: bytes
    records: bytes
    size: int
    tail: bytes


class Kept:
    """Answers by question, as many as `MOST_BYTES` hold."""

    def __init__(self) -> None:
        self._answers: dict[Key, _Answer] = {}
        self.bytes = 0
        self._turn = itertools.count(1)

    def clear(self) -> None:
        self._answers.clear()
        self.bytes = 0

    def find(self, asked: bytes, usual: Usual) -> bytes | None:
        """The answer to this question, if it was given before."""
        if (kept := self._answers.get(usual.key)) is None:
            return None
        records = kept.records
        if records:
            # who takes the first address only is given another one each time
            first = next(self._turn) * kept.size % len(records)
            records = records[first:] + records[:first]
        name = asked[HEAD : usual.end]
        return b"".join((asked[:2], kept.head, name, kept.kind, records, kept.tail))

    def add(self, answer: bytes, usual: Usual) -> None:
        """Keeps an answer to this question, unless it does not repeat it: then there was something wrong with it."""
        end = usual.end
        if answer[HEAD:end].lower() != usual.key[1]:
            return
        size = EACH_BYTES + len(answer) + end
        if self.bytes + size > MOST_BYTES:
            self.clear()
        self.bytes += size
        after = end + 4
        count = answer[6] << 8 | answer[7]
        each = _SIZES.get(answer[end] << 8 | answer[end + 1], 0)
        last = after + count * each
        self._answers[usual.key] = _Answer(
            answer[2:HEAD], answer[end:after], answer[after:last], each, answer[last:]
        )
