"""Comes before the VMs for the processor, then serves."""

from __future__ import annotations

import gc
import sys

from copper.priority import come_first

NICE = -10  # a hundred VMs that wake at once would leave a node that starts a hundredth of the time


def main() -> int:
    """Exit status as in all commands: 0 ended as told, else the error's."""
    come_first(NICE)
    gc.disable()  # nothing of what is imported is garbage
    from copper.node.serve import main as serve

    gc.enable()
    return serve()


if __name__ == "__main__":
    sys.exit(main())
