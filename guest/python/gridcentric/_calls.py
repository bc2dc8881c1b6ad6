"""Each call once, without I/O: what is asked, and what is made of the answer. Both twins carry them."""

import base64
import errno as errnos
import json
import os
import re
from typing import (
    Any,
    Callable,
    Dict,
    Generic,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from gridcentric import errors
from gridcentric.records import Clone, Joined, Memory, Ticket, Vm

T = TypeVar("T")
Args = Dict[str, Any]

CLONES_MOST = 1024
FILE_MOST = 49152  # bytes: in base64 it fits a request's line
ANSWER_MOST = 4 << 20
_INT_MOST = 2**31 - 1
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def socket_path() -> str:
    """Where the agent listens."""
    return os.environ.get("GRIDCENTRIC_SOCKET") or "/run/gridcentric/agent.sock"


def unreachable(error: OSError) -> errors.Error:
    """What a failure to connect means."""
    path = socket_path()
    if error.errno in (errnos.EACCES, errnos.EPERM):
        advice = "an administrator opens it to all: chmod og+rw"
        return errors.of(errnos.EACCES, f"no permission to use {path} ({advice})")
    return errors.of(
        errnos.ECONNREFUSED, f"the agent is not running: {path}: {error.strerror or error}"
    )


def cut_off() -> errors.Error:
    """The connection ended without an answer."""
    return errors.of(errnos.ECONNREFUSED, "the agent went away before it answered")


class Call(Generic[T]):
    """A request, and how its result is read."""

    def __init__(self, verb: str, args: Args, take: Callable[[Any], T], ends: bool = False) -> None:
        self.verb = verb
        self.line = json.dumps({"verb": verb, "args": args}).encode() + b"\n"
        self.ends = ends  # this VM: nothing follows a success
        self._take = take

    def result(self, line: bytes) -> T:
        """What an answer's line holds. Raises Error."""
        if not line.endswith(b"\n"):
            raise cut_off()
        try:
            answer = json.loads(line)
            error, message = int(answer["errno"]), str(answer.get("message") or "")
            if not error:
                return self._take(answer["result"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as found:
            text = f"{self.verb}: the agent's answer is not understood"
            raise errors.of(errnos.EIO, text) from found
        shown = message or os.strerror(error)
        raise errors.of(error, shown if shown.startswith(self.verb) else f"{self.verb}: {shown}")


def _nothing(result: Any) -> None:
    return None


def _member(name: str, kind: Type[T]) -> Callable[[Any], T]:
    def take(result: Any) -> T:
        value = result[name]
        if not isinstance(value, kind):
            raise TypeError(name)
        return value

    return take


def _refused(call: str, expected: str, got: object) -> errors.Error:
    return errors.of(errnos.EINVAL, f"{call}: expected {expected}, got {got!r:.60}")


def _number(call: str, what: str, value: object, least: int, most: int = _INT_MOST) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _refused(call, f"{what} from {least} to {most}", value)


def _ticket(call: str, value: object) -> str:
    if isinstance(value, str) and _UUID.fullmatch(value):
        return value
    raise _refused(call, "ticket to be a ticket's UUID", value)


def vmid() -> Call[int]:
    return Call("vmid", {}, _member("vmid", int))


def ismaster() -> Call[bool]:
    return Call("ismaster", {}, _member("master", bool))


def generation() -> Call[int]:
    return Call("generation", {}, _member("generation", int))


def my_ip() -> Call[str]:
    return Call("my-ip", {}, _member("ip", str))


def request_ticket(maxcpus: int, minvms: int, mincpuspervm: int, timeout_ms: int) -> Call[str]:
    args = {
        "maxcpus": _number("request_ticket", "maxcpus", maxcpus, 1),
        "minvms": _number("request_ticket", "minvms", minvms, 1),
        "mincpuspervm": _number("request_ticket", "mincpuspervm", mincpuspervm, 1),
        "timeout_ms": _number("request_ticket", "timeout_ms", timeout_ms, 0),
    }
    return Call("request-ticket", args, _member("ticket", str))


def clone(ticket: Union[str, int]) -> Call[int]:
    args: Args
    if isinstance(ticket, str):
        args = {"ticket": _ticket("clone", ticket)}
    elif isinstance(ticket, int) and not isinstance(ticket, bool):
        args = {"count": _number("clone", "count", ticket, 1, CLONES_MOST)}
    else:
        raise _refused("clone", "ticket to be a ticket's UUID or a count", ticket)
    return Call("clone", args, _member("vmid", int))


def _rows(name: str, kind: Callable[..., T], fields: Sequence[str]) -> Callable[[Any], List[T]]:
    """Makes records of the list of that name."""
    members = _member(name, list)

    def take(result: Any) -> List[T]:
        return [kind(*(row[field] for field in fields)) for row in members(result)]

    return take


def list_tickets() -> Call[List[Ticket]]:
    return Call("list-tickets", {}, _rows("tickets", Ticket, Ticket._fields))


def list_ticket_domains(ticket: str) -> Call[List[Clone]]:
    args = {"ticket": _ticket("list_ticket_domains", ticket)}
    return Call("list-ticket-domains", args, _rows("clones", Clone, Clone._fields))


def list_vms() -> Call[List[Vm]]:
    return Call("list", {}, _rows("vms", Vm, Vm._fields))


def stat() -> Call[List[Memory]]:
    return Call("stat", {}, _rows("vms", Memory, Memory._fields))


def sync(ticket: Optional[str], timeout_ms: Optional[int]) -> Call[None]:
    if ticket is None and timeout_ms is None:
        return Call("sync", {}, _nothing)
    args = {
        "ticket": _ticket("sync", ticket),
        "timeout_ms": _number("sync", "timeout_ms", timeout_ms, 0),
    }
    return Call("sync", args, _nothing)


def join(status: int, file: Optional[bytes]) -> Call[None]:
    args: Args = {"status": _number("join", "status", status, 0, 255), "report": True}
    if file is not None:
        if not isinstance(file, (bytes, bytearray, memoryview)):
            raise _refused("join", "file to be bytes", file)
        if len(file) > FILE_MOST:
            raise _refused("join", f"file of at most {FILE_MOST} bytes", len(file))
        args["file"] = base64.b64encode(file).decode()
    return Call("join", args, _nothing, ends=True)


def join_noreport() -> Call[None]:
    return Call("join", {"status": 0, "report": False}, _nothing, ends=True)


JoinedPage = Tuple[List[Joined], Any]


def join_wait(ticket: str, timeout_ms: Optional[int], after: Any = None) -> Call[JoinedPage]:
    """One page of the answer, and what the next one is asked with, None after the last."""
    args: Args = {"ticket": _ticket("join_wait", ticket)}
    if timeout_ms is not None:
        args["timeout_ms"] = _number("join_wait", "timeout_ms", timeout_ms, 0)
    if after is not None:
        args["after"] = after

    def take(result: Any) -> JoinedPage:
        rows = [
            Joined(row["vmid"], row["status"], None if text is None else base64.b64decode(text))
            for row in result["clones"]
            for text in [row.get("file")]
        ]
        return rows, result.get("next")

    return Call("join-wait", args, take)


def kill(*vmids: int) -> Call[None]:
    if not 1 <= len(vmids) <= CLONES_MOST:
        raise _refused("kill", f"from 1 to {CLONES_MOST} vmids", len(vmids))
    return Call("kill", {"vmids": [_number("kill", "vmid", vmid, 0) for vmid in vmids]}, _nothing)


def kill_generation(vmid: int) -> Call[None]:
    return Call("kill-generation", {"vmid": _number("kill_generation", "vmid", vmid, 0)}, _nothing)


def killall() -> Call[None]:
    return Call("killall", {}, _nothing)
