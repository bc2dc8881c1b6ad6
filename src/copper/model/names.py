"""What names and counts may look like: checked at every edge, in one way."""

from __future__ import annotations

import re

from copper.model.errors import BadInput

MOST_CLONES = 1024
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_VM = re.compile(r"(.+)-(\d{1,9})")


def check_name(name: str, what: str) -> str:
    """A name of a virtual cluster or an image: a DNS label of at most 40 characters.

    It becomes a host name, a folder and a part of VM names. Raises BadInput.
    """
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise BadInput(
            f"{what} {shown!r} is not a name",
            advice="1 to 40 of a-z, 0-9 and -, not - at either end",
        )
    return name


def vm_name(cluster: str, vmid: int) -> str:
    return f"{cluster}-{vmid}"


def parse_vm_name(name: str) -> tuple[str, int]:
    """`demo-3` → (`demo`, 3). Raises BadInput."""
    match = _VM.fullmatch(name)
    if not match or not _NAME.fullmatch(match[1]):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise BadInput(f"{shown!r} is not a VM", advice="a VM is CLUSTER-VMID, such as demo-0")
    return match[1], int(match[2])


def check_count(value: object) -> int:
    """A number of clones. Raises BadInput."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CLONES:
        raise BadInput(f"clone: expected a count from 1 to {MOST_CLONES}, got {value!r:.40}")
    return value
