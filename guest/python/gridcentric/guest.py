"""The guest API, call by call. A call blocks its own thread only; signals are handled while it waits.

What a signal's handler raises, KeyboardInterrupt for one, gives the call up. Failures raise
`gridcentric.errors.Error`, an OSError with an errno.

    from gridcentric import guest as gc

    ticket = gc.request_ticket(4, 1, 1, 1000)
    vmid = gc.clone(ticket)
    print("the caller" if vmid == 0 else f"clone {vmid}")
"""

import socket
import threading
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


def _exchange(sock: socket.socket, line: bytes) -> bytes:
    try:
        sock.sendall(line)
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) <= _calls.ANSWER_MOST:
            more = sock.recv(65536)
            if not more:
                raise _calls.cut_off()
            answer += more
    except (BrokenPipeError, ConnectionResetError) as error:
        raise _calls.cut_off() from error
    return bytes(answer)


def _ask(call: "_calls.Call[T]") -> T:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(None)  # whatever socket.setdefaulttimeout says
            sock.connect(_calls.socket_path())
        except OSError as error:
            raise _calls.unreachable(error) from None
        result = call.result(_exchange(sock, call.line))
    while call.ends:
        threading.Event().wait()  # this VM ends any moment
    return result


def vmid() -> int:
    """This VM's number: 0 in the master, 1, 2, 3 … in clones."""
    return _ask(_calls.vmid())


def ismaster() -> bool:
    """Whether this is the master."""
    return _ask(_calls.ismaster())


def generation() -> int:
    """The number of the clone call that made this VM, 0 in the master. It only grows."""
    return _ask(_calls.generation())


def my_ip() -> str:
    """This VM's address on the private network; empty where there is none."""
    return _ask(_calls.my_ip())


def request_ticket(maxcpus: int, minvms: int, mincpuspervm: int, timeout_ms: int) -> str:
    """Reserves room for clones, and returns the ticket.

    As many VMs as fit with at most `maxcpus` processors, `minvms` at least, `mincpuspervm` processors
    each. Waits up to `timeout_ms` milliseconds. Raises NoRoom.
    """
    return _ask(_calls.request_ticket(maxcpus, minvms, mincpuspervm, timeout_ms))


def clone(ticket: Union[str, int]) -> int:
    """Forks this VM onto all that the ticket holds, or into a ticketless `int` of clones, all or none.

    Returns once in every VM: 0 in the caller, the clone's vmid in each clone.
    """
    return _ask(_calls.clone(ticket))


def list_tickets() -> List[Ticket]:
    """The tickets that this VM holds."""
    return _ask(_calls.list_tickets())


def list_ticket_domains(ticket: str) -> List[Clone]:
    """The clones made on a ticket, with their addresses."""
    return _ask(_calls.list_ticket_domains(ticket))


def stat() -> List[Memory]:
    """The memory of this VM and its generation."""
    return _ask(_calls.stat())


def sync(ticket: Optional[str] = None, timeout_ms: Optional[int] = None) -> None:
    """A barrier: returns when the caller and all live clones of the ticket are here.

    The VM that cloned gives the ticket and a limit in milliseconds, a clone nothing. Raises TimedOut.
    """
    _ask(_calls.sync(ticket, timeout_ms))


def join(status: int = 0, file: Optional[bytes] = None) -> None:
    """Ends this clone, and reports `status` (0 to 255) and `file` (up to 49,152 bytes) to the VM that cloned it.

    Returns only by raising Error.
    """
    _ask(_calls.join(status, file))


def join_noreport() -> None:
    """Ends this clone; nobody is told. Returns only by raising Error."""
    _ask(_calls.join_noreport())


def join_wait(ticket: str, timeout_ms: Optional[int] = None) -> List[Joined]:
    """Waits until every clone of the ticket ended. Without a limit, for ever. Raises TimedOut."""
    found, after = _ask(_calls.join_wait(ticket, timeout_ms))
    while after is not None:
        more, after = _ask(_calls.join_wait(ticket, timeout_ms, after))
        found += more
    return found


def kill(*vmids: int) -> None:
    """Ends these clones. Their resources are free when it returns."""
    _ask(_calls.kill(*vmids))


def kill_generation(vmid: int) -> None:
    """Ends all clones that were made together with this one."""
    _ask(_calls.kill_generation(vmid))


def killall() -> None:
    """Ends all clones of this VM, and theirs."""
    _ask(_calls.killall())


def list() -> List[Vm]:
    """Every live VM of this virtual cluster."""
    return _ask(_calls.list_vms())
