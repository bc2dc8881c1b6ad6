"""The guest API: forks the virtual machine that this program runs in.

`gridcentric.guest` has the calls, `gridcentric.aio` the same for asyncio.
"""

from gridcentric.errors import Error
from gridcentric.records import Clone, Joined, Memory, Ticket, Vm

__all__ = ["Clone", "Error", "Joined", "Memory", "Ticket", "Vm"]
