"""The API's clusters. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, overload

from copper.client import check
from copper.client.caller import Caller, given

if TYPE_CHECKING:
    from copper.model.api import (
        Cluster,
        ClusterState,
        Limits,
        MemoryClass,
        Requirements,
        Strategy,
        Vm,
        VmLimits,
    )
    from copper.model.networks import Attachment
    from copper.model.operations import Operation
    from copper.model.ssh import LoginKey


class ClustersApi(Caller):
    """What can be asked about clusters. Every call may raise CopperError."""

    def clusters(
        self, *, owner: str | None = None, state: ClusterState | None = None
    ) -> list[Cluster]:
        """The virtual clusters."""
        return list(self.iter_clusters(owner=owner, state=state))

    def iter_clusters(
        self, *, owner: str | None = None, state: ClusterState | None = None
    ) -> Iterator[Cluster]:
        """The same one by one, asked for page by page."""
        return self._pages("Cluster", "/v1/clusters", {"owner": owner, "state": state})

    def create(
        self,
        name: str,
        image: str,
        *,
        memory_mib: int | None = None,
        cpus: int | None = None,
        memory_class: MemoryClass = "shared",
        placement: Strategy = "near",
        requires: Requirements | None = None,
        limits: Limits | None = None,
        networks: list[Attachment] | None = None,
        egress: str | None = None,
        owner: str | None = None,
    ) -> Cluster:
        """Makes a virtual cluster of an image."""
        answer: Cluster = self._ask(
            "Cluster",
            "POST",
            "/v1/clusters",
            body={
                "name": check.a_cluster(name),
                "image": check.an_image(image),
                "memory_class": memory_class,
                "placement": placement,
                **given(
                    memory_mib=memory_mib,
                    cpus=cpus,
                    requires=requires,
                    limits=limits,
                    networks=networks,
                    egress=egress,
                    owner=owner,
                ),
            },
            keyed=True,
        )
        return answer

    def cluster(self, name: str) -> Cluster:
        """One virtual cluster."""
        answer: Cluster = self._ask("Cluster", "GET", f"/v1/clusters/{check.a_cluster(name)}")
        return answer

    @overload
    def delete(self, name: str, *, wait: Literal[True] = True) -> None: ...
    @overload
    def delete(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def delete(self, name: str, *, wait: bool = True) -> Operation | None:
        """Forgets a virtual cluster that has no VMs."""
        answer: Operation | None = self._ask(
            "None", "DELETE", f"/v1/clusters/{check.a_cluster(name)}", keyed=True, wait=wait
        )
        return answer

    def login_key(self, name: str) -> LoginKey:
        """The SSH key pair of its VMs: who has it logs in to any of them as root."""
        answer: LoginKey = self._ask(
            "LoginKey", "GET", f"/v1/clusters/{check.a_cluster(name)}/login-key"
        )
        return answer

    @overload
    def boot(self, name: str, *, wait: Literal[True] = True) -> Vm: ...
    @overload
    def boot(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def boot(self, name: str, *, wait: bool = True) -> Vm | Operation:
        """Boots the master; answers once its agent has answered."""
        answer: Vm | Operation = self._ask(
            "Vm", "POST", f"/v1/clusters/{check.a_cluster(name)}/boot", keyed=True, wait=wait
        )
        return answer

    @overload
    def limit(
        self,
        name: str,
        *,
        limits: Limits | None = None,
        vm_limits: VmLimits | None = None,
        wait: Literal[True] = True,
    ) -> Cluster: ...
    @overload
    def limit(
        self,
        name: str,
        *,
        limits: Limits | None = None,
        vm_limits: VmLimits | None = None,
        wait: Literal[False],
    ) -> Operation: ...
    def limit(
        self,
        name: str,
        *,
        limits: Limits | None = None,
        vm_limits: VmLimits | None = None,
        wait: bool = True,
    ) -> Cluster | Operation:
        """Sets what a virtual cluster and each of its VMs may have, live."""
        answer: Cluster | Operation = self._ask(
            "Cluster",
            "PUT",
            f"/v1/clusters/{check.a_cluster(name)}/limits",
            body=given(limits=limits, vm_limits=vm_limits),
            keyed=True,
            wait=wait,
        )
        return answer

    @overload
    def kill(self, name: str, *, wait: Literal[True] = True) -> list[str]: ...
    @overload
    def kill(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def kill(self, name: str, *, wait: bool = True) -> list[str] | Operation:
        """Ends all VMs of a virtual cluster, forks under way too, and gives their names."""
        answer: list[str] | Operation = self._ask(
            "list[str]", "POST", f"/v1/clusters/{check.a_cluster(name)}/kill", keyed=True, wait=wait
        )
        return answer

    @overload
    def pause(self, name: str, *, wait: Literal[True] = True) -> list[str]: ...
    @overload
    def pause(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def pause(self, name: str, *, wait: bool = True) -> list[str] | Operation:
        """Stops the processors of all its VMs."""
        answer: list[str] | Operation = self._ask(
            "list[str]",
            "POST",
            f"/v1/clusters/{check.a_cluster(name)}/pause",
            keyed=True,
            wait=wait,
        )
        return answer

    @overload
    def unpause(self, name: str, *, wait: Literal[True] = True) -> list[str]: ...
    @overload
    def unpause(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def unpause(self, name: str, *, wait: bool = True) -> list[str] | Operation:
        """Has paused VMs go on."""
        answer: list[str] | Operation = self._ask(
            "list[str]",
            "POST",
            f"/v1/clusters/{check.a_cluster(name)}/unpause",
            keyed=True,
            wait=wait,
        )
        return answer

    @overload
    def suspend(self, name: str, *, wait: Literal[True] = True) -> list[str]: ...
    @overload
    def suspend(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def suspend(self, name: str, *, wait: bool = True) -> list[str] | Operation:
        """Stores all VMs on disk and ends them: no memory, no processes; a reboot is survived."""
        answer: list[str] | Operation = self._ask(
            "list[str]",
            "POST",
            f"/v1/clusters/{check.a_cluster(name)}/suspend",
            keyed=True,
            wait=wait,
        )
        return answer

    @overload
    def resume(self, name: str, *, wait: Literal[True] = True) -> list[str]: ...
    @overload
    def resume(self, name: str, *, wait: Literal[False]) -> Operation: ...
    def resume(self, name: str, *, wait: bool = True) -> list[str] | Operation:
        """Gives every suspended VM back as it was."""
        answer: list[str] | Operation = self._ask(
            "list[str]",
            "POST",
            f"/v1/clusters/{check.a_cluster(name)}/resume",
            keyed=True,
            wait=wait,
        )
        return answer
