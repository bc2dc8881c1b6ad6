"""libnftables in this process: a change costs no process, and many lines are done all or not at all.

One namespace's `Nft` is made by a thread that is in it, and stays that namespace's.
"""

from __future__ import annotations

import ctypes
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

    def elements(self, table: str) -> dict[str, list[Any]]:
        """What the sets and maps of a table hold, such as `ip copper`, by their names. Raises CopperError: none."""
        found: dict[str, list[Any]] = {}
        for one in json.loads(self.run(f"list table {table}"))["nftables"]:
            for kind in ("set", "map"):
                if kind in one:
                    found[one[kind]["name"]] = one[kind].get("elem", [])
        return found
