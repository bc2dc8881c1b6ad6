"""The API's requests as typed methods (docs/reference/api.md)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from copper.client import http
from copper.model.names import check_name, parse_vm_name

if TYPE_CHECKING:
    from copper.client.commands import Finished
    from copper.client.streams import Stream
    from copper.model.api import Cluster, Frozen, Health, HostFacts, ImageInfo, Vm, VmStatus
    from copper.model.settings import Settings

READ_S = 30.0  # most time for an answer that only reads
CHANGE_S = 300.0  # and for one that makes or ends VMs: many of them on a small machine

Kind = Literal["exec", "push", "pull", "console"]


class Client:
    """The Copper that serves on the settings' socket. Every call may raise CopperError.

    Names are checked before anything is sent. Each request is a connection of its own, so a client
    may be used from several threads.
    """

    def __init__(self, settings: Settings) -> None:
        self.socket: Path = settings.api_socket

    def call(self, method: str, target: str, body: object = None) -> Any:
        """One request; the answer's JSON as it is, for those who only show it."""
        timeout_s = READ_S if method == "GET" else CHANGE_S
        answer = http.request(self.socket, method, target, body, timeout_s=timeout_s)
        return http.json_of(answer[1])

    def health(self, timeout_s: float = READ_S) -> Health:
        from copper.model.api import Health

        answer = http.request(self.socket, "GET", "/v1/health", timeout_s=timeout_s)
        return Health.model_validate(http.json_of(answer[1]))

    # virtual clusters

    def clusters(self) -> list[Cluster]:
        from copper.model.api import Cluster

        return [Cluster.model_validate(one) for one in self.call("GET", "/v1/clusters")]

    def cluster(self, name: str) -> Cluster:
        from copper.model.api import Cluster

        return Cluster.model_validate(self.call("GET", cluster_path(name)))

    def create(
        self, name: str, image: str, *, memory_mib: int | None = None, cpus: int | None = None
    ) -> Cluster:
        from copper.model.api import Cluster

        body = new_cluster(name, image, memory_mib, cpus)
        return Cluster.model_validate(self.call("POST", "/v1/clusters", body))

    def boot(self, name: str) -> Vm:
        """Boots the master and gives it, once its agent has answered."""
        from copper.model.api import Vm

        return Vm.model_validate(self.call("POST", f"{cluster_path(name)}/boot"))

    def kill(self, name: str) -> list[str]:
        """Ends all VMs of a virtual cluster and gives their names."""
        ended = self.call("POST", f"{cluster_path(name)}/kill")
        return [str(vm) for vm in ended]

    def delete(self, name: str) -> None:
        self.call("DELETE", cluster_path(name))

    # VMs

    def vms(self, cluster: str | None = None) -> list[Vm]:
        from copper.model.api import Vm

        return [Vm.model_validate(one) for one in self.call("GET", vms_path(cluster))]

    def vm(self, name: str) -> Vm:
        from copper.model.api import Vm

        return Vm.model_validate(self.call("GET", vm_path(name)))

    # the host

    def facts(self) -> HostFacts:
        from copper.model.api import HostFacts

        return HostFacts.model_validate(self.call("GET", "/host/v1/facts"))

    def statuses(self) -> list[VmStatus]:
        from copper.model.api import VmStatus

        return [VmStatus.model_validate(one) for one in self.call("GET", "/host/v1/vms")]

    def status(self, vm: str) -> VmStatus:
        from copper.model.api import VmStatus

        return VmStatus.model_validate(self.call("GET", host_vm_path(vm)))

    def end(self, vm: str) -> None:
        """Ends one VM on its host; one that is not there is no error."""
        self.call("DELETE", host_vm_path(vm))

    def freeze(self, vm: str) -> Frozen:
        from copper.model.api import Frozen

        return Frozen.model_validate(self.call("POST", f"{host_vm_path(vm)}/freeze"))

    def log(self, vm: str) -> bytes:
        """What the VM wrote to its serial line lately."""
        target = f"{host_vm_path(vm)}/log"
        kind, text = http.request(self.socket, "GET", target, timeout_s=READ_S)
        if kind == "application/json":
            return str(http.json_of(text)).encode()
        return text

    def images(self) -> list[ImageInfo]:
        from copper.model.api import ImageInfo

        return [ImageInfo.model_validate(one) for one in self.call("GET", "/v1/images")]

    def delete_image(self, name: str) -> None:
        self.call("DELETE", f"/v1/images/{check_name(name, 'image')}")

    # streams

    def stream(self, vm: str, kind: Kind) -> AbstractContextManager[Stream]:
        from copper.client.streams import open_stream

        return open_stream(self.socket, f"{host_vm_path(vm)}/{kind}")

    def run(self, vm: str, argv: list[str], *, stdin: bytes = b"") -> Finished:
        """Runs a command in a VM to its end, with all its output."""
        from copper.client.commands import run_command

        with self.stream(vm, "exec") as stream:
            return run_command(stream, argv, stdin)

    def push(self, vm: str, file: Path, destination: str) -> None:
        """Copies a local file into a VM: to a path, or into a folder."""
        from copper.client.files import check_file, push_file

        check_file(file)
        with self.stream(vm, "push") as stream:
            push_file(stream, file, destination)

    def pull(self, vm: str, source: str, target: Path) -> None:
        """Copies a VM's file to a local one."""
        from copper.client.files import pull_file

        with self.stream(vm, "pull") as stream:
            pull_file(stream, source, target)


def cluster_path(name: str) -> str:
    return f"/v1/clusters/{check_name(name, 'virtual cluster')}"


def vms_path(cluster: str | None = None) -> str:
    if cluster is None:
        return "/v1/vms"
    return f"/v1/vms?cluster={check_name(cluster, 'virtual cluster')}"


def vm_path(name: str) -> str:
    parse_vm_name(name)
    return f"/v1/vms/{name}"


def host_vm_path(name: str) -> str:
    return f"/host{vm_path(name)}"


def new_cluster(
    name: str, image: str, memory_mib: int | None, cpus: int | None
) -> dict[str, object]:
    """The body that makes a virtual cluster; what is not given follows the image."""
    body: dict[str, object] = {
        "name": check_name(name, "virtual cluster"),
        "image": check_name(image, "image"),
    }
    if memory_mib is not None:
        body["memory_mib"] = memory_mib
    if cpus is not None:
        body["cpus"] = cpus
    return body
