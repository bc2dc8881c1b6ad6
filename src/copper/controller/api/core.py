"""What the API asks of the parts that decide: a narrow seam, which tests have a fake of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from copper.controller.exposures import Exposures
from copper.controller.logins import Logins
from copper.controller.networks import Networks
from copper.model.api import (
    Cluster,
    GuestCall,
    HostFacts,
    ImageInfo,
    Limits,
    NewCluster,
    Vm,
    VmEnded,
    VmLimits,
)
from copper.model.audit import Difference
from copper.model.tickets import Ticket, TicketRequest

Progress = Callable[[int, int], None]  # parts done, of how many
# compares what is written down with what the hosts have; with True, what is safe to mend is mended
Audit = Callable[[bool], Awaitable[list[Difference]]]


class Guests(Protocol):
    """Answers what programs in guests ask for."""

    async def answer(self, call: GuestCall) -> dict[str, Any]: ...


class Core(Protocol):
    """What decides. Names are those that the asker may see; a call that is cancelled is undone."""

    @property
    def calls(self) -> Guests: ...

    @property
    def networks(self) -> Networks: ...

    @property
    def exposures(self) -> Exposures: ...

    @property
    def logins(self) -> Logins: ...

    def cluster(self, name: str) -> Cluster: ...
    async def create(self, owner: str, new: NewCluster) -> Cluster: ...
    async def boot(self, name: str, progress: Progress) -> Vm: ...
    async def kill(self, name: str, progress: Progress) -> list[str]: ...
    async def delete(self, name: str, progress: Progress) -> None: ...
    async def pause(self, name: str, progress: Progress) -> list[str]: ...
    async def unpause(self, name: str, progress: Progress) -> list[str]: ...
    async def suspend(self, name: str, progress: Progress) -> list[str]: ...
    async def resume(self, name: str, progress: Progress) -> list[str]: ...
    async def limit(
        self, name: str, limits: Limits | None, vm_limits: VmLimits | None
    ) -> Cluster: ...

    async def clone(
        self,
        vm: str,
        count: int | None = None,
        ticket: str | None = None,
        call: int | None = None,
        progress: Progress = ...,
    ) -> list[Vm]: ...
    async def end(self, vms: list[str]) -> None: ...
    async def ended(self, ended: VmEnded) -> None: ...
    async def request_ticket(self, vm: str, request: TicketRequest) -> Ticket: ...
    async def release_ticket(self, ticket: str) -> None: ...

    def host_facts(self) -> list[HostFacts]: ...
    async def images(self) -> list[ImageInfo]: ...
    async def delete_image(self, name: str) -> None: ...
