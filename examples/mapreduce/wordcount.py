"""Counts the words of a text in forked machines: wordcount.py TEXT WORKERS…

The text is read once. Then for each number so many workers are forked, who all have it in memory: each counts a share
of its pieces, waits for the others, and ends with its counts as its file. The counts of 2 workers are in TEXT.2, as
`uniq -c` would have them; times are printed as JSON.
"""

import json
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

from gridcentric import guest as gc

PIECE = 1 << 16  # bytes


def pieces_of(text):
    """Where pieces begin and end: each with the line that it ends in."""
    pieces, end = [], 0
    while end < len(text):
        begin, end = end, text.find(b"\n", end + PIECE) + 1 or len(text)
        pieces.append((begin, end))
    return pieces


def number_of_words(text):
    """How many there are, found in another way than by counting each: the places where one begins."""
    shape = b"".join(b" " if bytes([byte]).isspace() else b"x" for byte in range(256))
    return (b" " + text).translate(shape).count(b" x")


def work(text, pieces):
    """In a worker: counts its pieces, and ends the machine."""
    counts = Counter()
    for begin, end in pieces:
        counts.update(text[begin:end].split())
    gc.sync()
    lines = sorted(b"%s %d\n" % item for item in counts.items())
    gc.join(0, zlib.compress(b"".join(lines)))


def collect(ticket):
    """In the master: the counts of all workers together."""
    counts = Counter()
    for worker in gc.join_wait(ticket):
        if worker.status != 0:
            sys.exit(f"worker {worker.vmid} ended with status {worker.status}")
        for line in zlib.decompress(worker.file).splitlines():
            word, number = line.split()
            counts[word] += int(number)
    return counts


def count(text, pieces, workers):
    """Forks, waits and collects: the counts, and how long each took."""
    began = time.monotonic()
    ticket = gc.request_ticket(workers, workers, 1, 60_000)
    vmid = gc.clone(ticket)
    if vmid > 0:
        turn = [clone.vmid for clone in gc.list_ticket_domains(ticket)].index(vmid)
        try:
            work(text, pieces[turn::workers])
        finally:
            gc.join(1)  # it failed: nobody must wait for this machine
    forked = time.monotonic()
    gc.sync(ticket, 3_600_000)
    mapped = time.monotonic()
    counts = collect(ticket)
    reduced = time.monotonic()
    times = {"fork_s": forked - began, "map_s": mapped - forked, "reduce_s": reduced - mapped}
    return counts, {name: round(seconds, 3) for name, seconds in times.items()}


def main(path, *numbers):
    """Once for each number of workers."""
    text = Path(path).read_bytes()
    pieces, words = pieces_of(text), number_of_words(text)
    for workers in map(int, numbers):
        counts, times = count(text, pieces, workers)
        if sum(counts.values()) != words:
            sys.exit(f"{workers} workers counted {sum(counts.values())} of {words} words")
        lines = [b"%7d %s\n" % (counts[word], word) for word in sorted(counts)]
        Path(f"{path}.{workers}").write_bytes(b"".join(lines))
        said = {"workers": workers, "words": words, "different": len(counts), **times}
        print(json.dumps(said), flush=True)


main(*sys.argv[1:])
