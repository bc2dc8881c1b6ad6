"""libnftables in this process: a change costs no process, and many lines are done all or not at all.

One namespace's `Nft` is made by a thread that is in it, and stays that namespace's.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import json
from typing import Any

from copper.model.errors import CopperError

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON of nftables/libnftables.h


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise CopperError(
            "there is no libnftables", advice="install the package nftables"
        ) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in (
        *("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer", "nft_ctx_free"),
        *("nft_ctx_buffer_output", "nft_ctx_buffer_error"),
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Nft:
    """The rulesets of the namespace in which it was made."""

    def __init__(self) -> None:
        """Raises CopperError."""
        self._library = _library()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise CopperError("nftables cannot be reached")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _JSON)

    def close(self) -> None:
        """Again: nothing to do."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, text: str) -> str:
        """Does all of it or nothing; what it says. Raises CopperError."""
        failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        said: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        why: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise CopperError(f"nft refused it: {why.decode(errors='replace').strip()[:300]}")
        return said.decode(errors="replace")

    def held(self, table: str, rules: str) -> dict[str, list[Any]]:
        """What the sets and maps of a table hold, such as `ip copper`, by their names.

        Nothing: there is no such table, or it does not have as many rules as it was made with.
        """
        found: dict[str, list[Any]] = {}
        count = 0
        try:
            listed = json.loads(self.run(f"list table {table}"))["nftables"]
        except CopperError:
            return {}
        for one in listed:
            count += "rule" in one
            for kind in ("set", "map"):
                if kind in one:
                    found[one[kind]["name"]] = one[kind].get("elem", [])
        return found if count == rules_in(rules) else {}


def rules_in(text: str) -> int:
    """How many rules the chains of a table have, as nft reads it."""
    count, within = 0, False
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("chain ") and line.endswith("{"):
            within = True
        elif line == "}":
            within = False
        elif within and not line.startswith("type "):
            count += 1
    return count


@dataclasses.dataclass
class Table:
    """A table of nftables, and the rules that it is made with."""

    name: str
    nft: Nft
    rules: str
    is_made: bool = False  # by this agent: an earlier one's may have had other rules

    def hold(self, elements: str) -> None:
        """Changes what it holds, in one step; one that somebody removed is made again. Raises CopperError."""
        if self.is_made:
            with contextlib.suppress(CopperError):
                self.nft.run(elements)
                return
        self.nft.run(self.rules + elements)
        self.is_made = True

    def held(self) -> dict[str, list[Any]]:
        """What its sets and maps hold; nothing where it is not whole: it is made again then."""
        found = self.nft.held(self.name, self.rules)
        self.is_made = self.is_made and bool(found)
        return found
