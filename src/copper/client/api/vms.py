"""The API's vms. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, overload

from copper.client import check
from copper.client.caller import Caller, given

if TYPE_CHECKING:
    from copper.model.api import Frozen, HostFacts, Vm, VmState, VmStatus
    from copper.model.operations import Operation


class VmsApi(Caller):
    """What can be asked about vms. Every call may raise CopperError."""

    def vms(
        self, cluster: str | None = None, *, state: VmState | None = None, host: str | None = None
    ) -> list[Vm]:
        """The VMs, by virtual cluster and vmid."""
        return list(self.iter_vms(cluster=cluster, state=state, host=host))

    def iter_vms(
        self, cluster: str | None = None, *, state: VmState | None = None, host: str | None = None
    ) -> Iterator[Vm]:
        """The same one by one, asked for page by page."""
        return self._pages(
            "Vm",
            "/v1/vms",
            {
                "cluster": check.a_cluster(cluster) if cluster is not None else None,
                "state": state,
                "host": host,
            },
        )

    def vm(self, name: str) -> Vm:
        """One VM."""
        answer: Vm = self._ask("Vm", "GET", f"/v1/vms/{check.a_vm(name)}")
        return answer

    @overload
    def kill_vm(self, name: str, *, wait: Literal[True] = True) -> None: ...
    @overload
    def kill_vm(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def kill_vm(self, name: str, *, wait: bool = True) -> Operation | None:
        """Ends one VM; what it had is free when this answers."""
        answer: Operation | None = self._ask(
            "None", "POST", f"/v1/vms/{check.a_vm(name)}/kill", keyed=True, wait=wait
        )
        return answer

    @overload
    def clone_vm(
        self,
        name: str,
        *,
        count: int | None = None,
        ticket: str | None = None,
        wait: Literal[True] = True,
    ) -> list[Vm]: ...
    @overload
    def clone_vm(
        self,
        name: str,
        *,
        count: int | None = None,
        ticket: str | None = None,
        wait: Literal[False],
    ) -> Operation: ...
    def clone_vm(
        self, name: str, *, count: int | None = None, ticket: str | None = None, wait: bool = True
    ) -> list[Vm] | Operation:
        """Forks a VM into `count` more, or onto all that a ticket holds; gives the clones."""
        answer: list[Vm] | Operation = self._ask(
            "list[Vm]",
            "POST",
            f"/v1/vms/{check.a_vm(name)}/clone",
            body=given(count=count, ticket=ticket),
            keyed=True,
            wait=wait,
        )
        return answer

    def facts(self) -> HostFacts:
        """A host, as it is at this moment."""
        answer: HostFacts = self._ask("HostFacts", "GET", "/host/v1/facts")
        return answer

    def statuses(self) -> list[VmStatus]:
        """The VMs of a host, as it knows them."""
        answer: list[VmStatus] = self._ask("list[VmStatus]", "GET", "/host/v1/vms")
        return answer

    def status(self, name: str) -> VmStatus:
        """A VM as its host knows it."""
        answer: VmStatus = self._ask("VmStatus", "GET", f"/host/v1/vms/{check.a_vm(name)}")
        return answer

    def end(self, name: str) -> None:
        """Ends one VM on its host, if it is there."""
        self._ask("None", "DELETE", f"/host/v1/vms/{check.a_vm(name)}")

    def freeze(self, name: str) -> Frozen:
        """Freezes a VM into an image."""
        answer: Frozen = self._ask("Frozen", "POST", f"/host/v1/vms/{check.a_vm(name)}/freeze")
        return answer

    def log(self, name: str) -> bytes:
        """What a VM wrote to its serial line lately."""
        answer: bytes = self._ask("bytes", "GET", f"/host/v1/vms/{check.a_vm(name)}/log")
        return answer
