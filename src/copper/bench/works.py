"""Four works, timed in a guest: its Python runs this file's text, is told a work's name, and says the ms that it took.

Each does the same every time, over memory and a file that it keeps: what is measured a second time has been touched.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LOOP_TIMES = 200_000
WALK_MIB, PAGE, WALK_STRIDES = 64, 4096, range(0, 4096, 256)
STARTS = 3
FILE = Path("/var/tmp/works.db")
ROWS, GROUPS = 2_000, 16

_block = bytearray()


def loop() -> None:
    """Additions and multiplications of small numbers."""
    value = 1
    for number in range(LOOP_TIMES):
        value = (value * 1_103_515_245 + number) & 0x7FFF_FFFF


def walk() -> None:
    """Byte after byte is written and read, each on another page than the one before."""
    if not _block:
        _block.extend(bytes(WALK_MIB << 20))
    written = bytes(range(256)) * (len(_block) // PAGE // 256)
    for offset in WALK_STRIDES:
        _block[offset::PAGE] = written
    for offset in WALK_STRIDES:
        if _block[offset::PAGE] != written:
            raise SystemExit(f"at {offset}: not what was written")


def python() -> None:
    """Several in a row: what is translated for one is thrown away while another starts."""
    for _ in range(STARTS):
        subprocess.run([sys.executable, "-c", "pass"], check=True)


def sqlite() -> None:
    """One transaction that replaces all rows of a table in a file on the disk, and a query over them."""
    database = sqlite3.connect(FILE)
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS works (id INTEGER PRIMARY KEY, at, said)")
        database.execute("DELETE FROM works")
        rows = ((row % GROUPS, f"row {row} of many") for row in range(ROWS))
        database.executemany("INSERT INTO works (at, said) VALUES (?, ?)", rows)
    query = "SELECT at, count(*), max(said) FROM works GROUP BY at ORDER BY at"
    if len(database.execute(query).fetchall()) != GROUPS:
        raise SystemExit("the table has not what was inserted")
    database.close()


WORKS: dict[str, Callable[[], None]] = {
    "loop": loop,
    "walk": walk,
    "python": python,
    "sqlite": sqlite,
}


def took_ms(work: Callable[[], None]) -> float:
    """By the guest's own clock."""
    began = time.monotonic_ns()
    work()
    return (time.monotonic_ns() - began) / 1e6


def main() -> None:
    while name := sys.stdin.readline().strip():
        print(took_ms(WORKS[name]), flush=True)


if __name__ == "__main__":
    main()
