"""The same calls as `gridcentric.guest`, as coroutines: the event loop goes on while they wait.

Cancelling one gives the call up. A clone has a copy of the event loop and of all that runs in it.

    vmid = await aio.clone(await aio.request_ticket(4, 1, 1, 1000))
"""

import asyncio
import socket
from typing import List, Optional, TypeVar, Union

from gridcentric import _calls
from gridcentric.errors import Error
from gridcentric.records import Clone, Joined, Memory, Ticket, Vm

T = TypeVar("T")

__all__ = [
    "Clone",
    "Error",
    "Joined",
    "Memory",
    "Ticket",
    "Vm",
    "clone",
    "generation",
    "ismaster",
    "join",
    "join_noreport",
    "join_wait",
    "kill",
    "kill_generation",
    "killall",
    "list",
    "list_ticket_domains",
    "list_tickets",
    "my_ip",
    "request_ticket",
    "stat",
    "sync",
    "vmid",
]


async def _connect(sock: socket.socket) -> None:
    while True:
        try:
            return sock.connect(_calls.socket_path())  # a Unix socket connects at once, or not
        except BlockingIOError:  # the agent's backlog is full
            await asyncio.sleep(0.01)
        except OSError as error:
            raise _calls.unreachable(error) from None


async def _ask(call: "_calls.Call[T]") -> T:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await _connect(sock)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_calls.ANSWER_MOST)
        try:
            writer.write(call.line)
            result = call.result(await reader.readline())
            if call.ends:
                await asyncio.get_event_loop().create_future()  # this VM ends any moment
            return result
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _calls.cut_off() from error
        finally:
            writer.transport.abort()


async def vmid() -> int:
    """This VM's number: 0 in the master, 1, 2, 3 … in clones."""
    return await _ask(_calls.vmid())


async def ismaster() -> bool:
    """Whether this is the master."""
    return await _ask(_calls.ismaster())


async def generation() -> int:
    """The number of the clone call that made this VM, 0 in the master. It only grows."""
    return await _ask(_calls.generation())


async def my_ip() -> str:
    """This VM's address on the private network; empty where there is none."""
    return await _ask(_calls.my_ip())


async def request_ticket(maxcpus: int, minvms: int, mincpuspervm: int, timeout_ms: int) -> str:
    """Reserves room for clones, and returns the ticket.

    As many VMs as fit with at most `maxcpus` processors, `minvms` at least, `mincpuspervm` processors
    each. Waits up to `timeout_ms` milliseconds. Raises NoRoom.
    """
    return await _ask(_calls.request_ticket(maxcpus, minvms, mincpuspervm, timeout_ms))


async def clone(ticket: Union[str, int]) -> int:
    """Forks this VM onto all that the ticket holds, or into a ticketless `int` of clones, all or none.

    Returns once in every VM: 0 in the caller, the clone's vmid in each clone.
    """
    return await _ask(_calls.clone(ticket))


async def list_tickets() -> List[Ticket]:
    """The tickets that this VM holds."""
    return await _ask(_calls.list_tickets())


async def list_ticket_domains(ticket: str) -> List[Clone]:
    """The clones made on a ticket, with their addresses."""
    return await _ask(_calls.list_ticket_domains(ticket))


async def stat() -> List[Memory]:
    """The memory of this VM and its generation."""
    return await _ask(_calls.stat())


async def sync(ticket: Optional[str] = None, timeout_ms: Optional[int] = None) -> None:
    """A barrier: returns when the caller and all live clones of the ticket are here.

    The VM that cloned gives the ticket and a limit in milliseconds, a clone nothing. Raises TimedOut.
    """
    await _ask(_calls.sync(ticket, timeout_ms))


async def join(status: int = 0, file: Optional[bytes] = None) -> None:
    """Ends this clone, and reports `status` (0 to 255) and `file` (up to 49,152 bytes) to the VM that cloned it.

    Returns only by raising Error.
    """
    await _ask(_calls.join(status, file))


async def join_noreport() -> None:
    """Ends this clone; nobody is told. Returns only by raising Error."""
    await _ask(_calls.join_noreport())


async def join_wait(ticket: str, timeout_ms: Optional[int] = None) -> List[Joined]:
    """Waits until every clone of the ticket ended. Without a limit, for ever. Raises TimedOut."""
    found, after = await _ask(_calls.join_wait(ticket, timeout_ms))
    while after is not None:
        more, after = await _ask(_calls.join_wait(ticket, timeout_ms, after))
        found += more
    return found


async def kill(*vmids: int) -> None:
    """Ends these clones. Their resources are free when it returns."""
    await _ask(_calls.kill(*vmids))


async def kill_generation(vmid: int) -> None:
    """Ends all clones that were made together with this one."""
    await _ask(_calls.kill_generation(vmid))


async def killall() -> None:
    """Ends all clones of this VM, and theirs."""
    await _ask(_calls.killall())


async def list() -> List[Vm]:
    """Every live VM of this virtual cluster."""
    return await _ask(_calls.list_vms())
