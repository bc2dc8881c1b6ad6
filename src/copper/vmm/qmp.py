"""QEMU's monitor: one typed method per verb that Copper uses, each with a deadline."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from copper.model.errors import CopperError, TimedOut
from copper.wire import trace

DEADLINE_S = 20.0
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class _Quiet(QMPClient):
    """Its messages as they are: the library writes each out, for people, for a log that is off."""

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class Monitor:
    """A connection to one QEMU's QMP socket."""

    def __init__(self) -> None:
        self._client = _Quiet()  # one with a name has a logger of its own, which is kept for ever
        self._client.logger.setLevel(logging.CRITICAL)
        self._client.events.event_filter = lambda _: False  # the library's own, which nobody reads
        self._migration = EventListener(["MIGRATION"])
        self._jobs = EventListener(["JOB_STATUS_CHANGE"])
        self.shutdown = EventListener(["SHUTDOWN", "GUEST_PANICKED"])
        for listener in (self._migration, self._jobs, self.shutdown):
            self._client.register_listener(listener)

    async def connect(self, path: Path, *, deadline_s: float = DEADLINE_S) -> None:
        try:
            await asyncio.wait_for(self._client.connect(str(path)), deadline_s)
        except TimeoutError:
            raise TimedOut(f"QEMU's monitor did not answer within {deadline_s:g} s") from None
        except (QMPError, OSError) as error:
            raise CopperError(f"QEMU's monitor cannot be reached: {error}") from error

    async def take_over(self, connection: socket.socket) -> None:
        """Goes on where another's connection to the QEMU that this one is a copy of stood."""
        self._client.await_greeting = self._client.negotiate = False
        try:
            await self._client.connect(connection)
        except (QMPError, OSError) as error:
            raise CopperError(f"QEMU's monitor cannot be reached: {error}") from error

    async def close(self) -> None:
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError, asyncio.IncompleteReadError) as error:
            # it is gone, which is what was wanted; what the error knows knows the error
            error.__traceback__ = None

    async def _do(self, verb: str, *, deadline_s: float = DEADLINE_S, **arguments: Any) -> Any:
        return await self._execute(verb, arguments, deadline_s)

    async def _execute(
        self, verb: str, arguments: dict[str, Any], deadline_s: float = DEADLINE_S
    ) -> Any:
        try:
            with trace.span(verb, "monitor"):
                said = self._client.execute(verb, arguments or None)
                return await asyncio.wait_for(said, deadline_s)
        except TimeoutError:
            raise TimedOut(f"QEMU did not answer {verb} within {deadline_s:g} s") from None
        except ExecuteError as error:
            raise CopperError(f"QEMU refused {verb}: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            raise CopperError(f"QEMU ended or was lost during {verb}") from error

    async def stop(self) -> None:
        """Stops the processors; drains and flushes the disks."""
        await self._do("stop")

    async def cont(self) -> None:
        await self._do("cont")

    async def quit(self) -> None:
        await self._do("quit", deadline_s=5)

    async def status(self) -> str:
        """QEMU's run state: running, paused, inmigrate, …"""
        return str((await self._do("query-status"))["status"])

    def last_words(self) -> str:
        """Why QEMU ended, if it said so before."""
        reason = ""
        for event in map(_plain, self.shutdown.clear()):
            if event["event"] == "SHUTDOWN":
                reason = str(event["data"]["reason"])
            elif event["event"] == "GUEST_PANICKED":
                return "the guest's kernel panicked"
        return {
            "guest-shutdown": "the guest powered itself off",
            "guest-reset": "the guest rebooted",
            "host-signal": "its QEMU was told to end by a signal",
        }.get(reason, reason)

    async def chain(self) -> list[Path]:
        """The files below the guest's disk as they are now, the one that it writes to last."""
        nodes = await self._do("query-named-block-nodes", flat=True)
        backing = {n["file"]: n.get("backing_file") for n in nodes if n["drv"] == "qcow2"}
        root = next(n["file"] for n in nodes if n["node-name"] == "root")
        file: str | None = json.loads(root.removeprefix("json:"))["file"]["file"]["filename"]
        found: list[Path] = []
        while file is not None and len(found) <= len(backing):
            found.insert(0, Path(file))
            file = backing.get(file)
        return found

    async def await_state(self) -> None:
        """Says when a state is loaded, and has the network card say nothing then."""
        await self._execute(
            "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}
        )
        await self._execute("migrate-set-parameters", {"announce-rounds": 0})

    async def lend(self, fd: int) -> int:
        """Gives QEMU a descriptor to open as `/dev/fdset/N`, in the mode that it has; returns N."""
        self._client.send_fd_scm(fd)
        return int((await self._do("add-fd"))["fdset-id"])

    async def take_back(self, fdset: int) -> None:
        await self._execute("remove-fd", {"fdset-id": fdset})

    async def save_devices(self, fdset: int) -> None:
        """Writes device state, without memory, into a lent file."""
        await self._do("xen-save-devices-state", filename=f"/dev/fdset/{fdset}", live=False)

    async def load_devices(self, fd: int) -> None:
        """Reads device state from `fd` into a QEMU that waits for it; returns when it is loaded."""
        self._migration.clear()
        self._client.send_fd_scm(fd)
        await self._do("getfd", fdname="state")
        await self._execute("migrate-incoming", {"uri": "fd:state"})
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    status = _plain(await self._migration.get())["data"]["status"]
                    if status == "completed":
                        return
                    if status == "failed":
                        raise CopperError("QEMU could not load the device state")
        except TimeoutError:
            raise TimedOut(f"no device state was loaded within {DEADLINE_S:g} s") from None

    async def add_overlay(self, chain: Sequence[tuple[str, Path]]) -> None:
        """Opens a chain of qcow2 files with their nodes' names, the lowest first; one alone stands on nothing."""
        options: dict[str, Any] | None = None
        for node, path in chain:
            above = disk_options(node, path)
            if options is not None or len(chain) == 1:
                above["backing"] = options
            if node != chain[-1][0]:
                above |= {"read-only": True, "discard": "ignore"}
            options = above
        await self._execute("blockdev-add", options or {})

    async def change_disk(self, node: str, path: Path, backing: str, old: Iterable[str]) -> None:
        """Puts an overlay over the node `backing` under the guest's disk, in place of the nodes `old`."""
        options = {**disk_options(node, path), "backing": backing}
        # answered one after the other, asked for at once
        await asyncio.gather(
            self._execute("blockdev-add", options),
            self.put_under_root(node),
            *(self.remove_node(gone) for gone in old),
        )

    async def remove_node(self, node: str) -> None:
        await self._execute("blockdev-del", {"node-name": node})

    async def put_under_root(self, node: str) -> None:
        """The guest's disk is the filter `root`: what lies under it is swapped for `node`."""
        await self._execute(
            "blockdev-reopen",
            {"options": [{"driver": "raw", "node-name": "root", "file": node}]},
        )

    async def step_aside(self, node: str, overlay: str) -> None:
        """What is written from now on goes to `overlay`; `node` becomes its backing file."""
        await self._do("blockdev-snapshot", node=node, overlay=overlay)

    async def pull_up(self, node: str, base: Path, *, deadline_s: float) -> None:
        """Copies all that lies between the file `base` and `node` into `node`, while the guest runs."""
        self._jobs.clear()
        job = f"pull-{node}"
        await self._execute(
            "block-stream", {"job-id": job, "device": node, "base": str(base), "auto-dismiss": True}
        )
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    event = _plain(await self._jobs.get())["data"]
                    if event["id"] == job and event["status"] in ("null", "aborting"):
                        if event["status"] == "aborting":
                            raise CopperError("QEMU could not shorten the chain of disks")
                        return
        except TimeoutError:
            await self._execute("job-cancel", {"id": job})
            raise TimedOut("the chain of disks was not shortened in time") from None


def _plain(message: Message) -> dict[str, Any]:
    return dict(message)


def disk_options(node: str, path: Path) -> dict[str, Any]:
    """QEMU's options for a qcow2 file. Flushes stay in the host's memory: a VM never outlives its host."""
    return {
        "driver": "qcow2",
        "node-name": node,
        "discard": "unmap",
        "cache": {"no-flush": True},
        "file": {"driver": "file", "filename": str(path), "cache": {"no-flush": True}},
    }
