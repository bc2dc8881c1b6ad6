"""One VM on this host, from its thaw to its end."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time

from copper.host.hypervisor import Guest, Image, Line, Machine
from copper.host.records import VmRecord
from copper.image.freeze import Pause
from copper.model.api import Event, ThawOrder, VmLimits, VmState, VmStatus
from copper.model.errors import CopperError
from copper.model.machine import Identity
from copper.model.networks import Exposure
from copper.model.ssh import LoginKey
from copper.net.addresses import PREFIX, place_of
from copper.wire import trace


@dataclasses.dataclass(slots=True)
class Vm:
    """A VM: who it is, and the machine that runs it."""

    identity: Identity
    template: str
    machine: Machine
    state: VmState = "starting"
    ready_ms: float = 0
    last_pause: Pause | None = None
    limits: VmLimits = dataclasses.field(default_factory=VmLimits)
    reserved_bytes: int = 0
    began: float = dataclasses.field(default_factory=time.time)
    machine_id: str = ""  # of a guest that has a network; 32 hexadecimal digits
    ssh_host_key: str = ""  # as its guest said; empty where it made none
    login_key: LoginKey | None = None  # for a guest that boots, until it has it
    told: tuple[str, int] = ("", 0)  # what it knows of the others: host.names
    exposure: Exposure | None = None  # None: the world does not reach it, nor it the world
    paused_for: str = ""  # why it is paused, when nobody asked for it
    paused_at: float = 0.0  # of the monotonic clock; 0: since before this agent began
    turn: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)  # to stop it, or freeze it
    greeting: asyncio.Task[None] | None = None  # a new agent's first session with its guest

    @classmethod
    def new(cls, order: ThawOrder, template: str, machine: Machine, machine_id: str = "") -> Vm:
        """One that was ordered; it is no machine that there was before, unless an id says so."""
        vm = cls(order.identity, template, machine)
        vm.limits, vm.reserved_bytes = order.limits, order.reserved_bytes
        vm.exposure, vm.login_key = order.exposure, order.login_key
        if machine.has_network:
            vm.machine_id = machine_id or secrets.token_hex(16)
        return vm

    @classmethod
    def of(cls, record: VmRecord, machine: Machine) -> Vm:
        """A VM that an earlier host agent had, as it wrote it down."""
        return cls(
            record.identity,
            record.template,
            machine,
            "paused" if record.paused else "running",
            record.ready_ms,
            limits=record.limits,
            reserved_bytes=record.reserved_bytes,
            began=record.began,
            exposure=record.exposure,
            machine_id=record.machine_id,
            ssh_host_key=record.ssh_host_key,
            paused_for=record.paused_for,
        )

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def port(self) -> Guest:
        return self.machine.guest

    async def guest(self) -> Guest:
        """The guest, once it knows this host agent."""
        if self.greeting is not None:
            await asyncio.shield(self.greeting)
        return self.machine.guest

    @property
    def console(self) -> Line:
        return self.machine.console

    def status(self) -> VmStatus:
        machine = self.machine
        return VmStatus(
            name=self.name,
            identity=self.identity,
            shape=machine.shape,
            needs=machine.needs,
            state=self.state,
            pid=machine.pid,
            template=self.template,
            own_bytes=machine.own_bytes(),
            shared_bytes=machine.shared_bytes,
            layers=machine.layers,
            disks=len(machine.disks),
            ready_ms=self.ready_ms,
            last_pause_ms=self.last_pause.pause_ms if self.last_pause else None,
            reason=self.paused_for,
            exposure=self.exposure,
            ssh_host_key=self.ssh_host_key,
        )

    def record(self) -> VmRecord:
        return VmRecord(
            identity=self.identity,
            template=self.template,
            unit=self.machine.unit,
            disks=list(self.machine.disks),
            ready_ms=self.ready_ms,
            paused=self.state == "paused",
            paused_for=self.paused_for,
            limits=self.limits,
            reserved_bytes=self.reserved_bytes,
            began=self.began,
            exposure=self.exposure,
            machine_id=self.machine_id,
            ssh_host_key=self.ssh_host_key,
        )

    async def begin(
        self,
        event: Event,
        call: int | None,
        hosts: str = "",
        prefix: int = PREFIX,
        domain: str = "",
        *,
        deadline_s: float,
    ) -> None:
        """Opens a session with the guest: returns when its identity is its own. Raises TimedOut, CopperError.

        `domain`: below which it finds names; empty: it has no resolver of ours.
        """
        identity, routed = self.identity.model_dump(), list[str]()
        if self.machine.has_network:
            routed += self.exposure.routed if self.exposure else []
            net = place_of(self.identity.vmid, prefix, domain, routed)
            identity |= {"machine_id": self.machine_id, "net": net}
            if event == "boot" and self.machine.forks_by_copy:
                identity["rehearsal"] = place_of(self.identity.vmid + 1, prefix)
        if self.login_key is not None:
            identity |= {"login_key": self.login_key.model_dump()}
        guest = self.machine.guest
        with trace.span("identity", line=self.name):
            ready = await guest.begin(identity, event, call, hosts=hosts, deadline=deadline_s)
        if len(routed) > ready.public:
            raise CopperError(
                f"the agent in {self.name} takes no public address: its image is too old",
                advice="copper image build NAME --replace",
            )
        # an agent that was started again has forgotten what it made
        self.ssh_host_key = ready.host_key or self.ssh_host_key
        self.login_key = None
        if self.state == "starting":  # it may have been paused or ended meanwhile
            self.state = "running"

    async def freeze(self, *, run_on: bool = True) -> tuple[Image, Pause]:
        """An image of this VM. Raises NoRoom or CopperError; it goes on as `Machine.freeze` says."""
        with trace.line(self.name), trace.span("freeze"):
            image, self.last_pause = await self.machine.freeze(run_on=run_on)
        return image, self.last_pause
