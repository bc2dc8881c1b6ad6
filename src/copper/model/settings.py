"""Where Copper keeps things and what an administrator may set: read from the environment, once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from copper.model.errors import BadInput

MIB = 1 << 20
AccelChoice = Literal["auto", "kvm", "tcg"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """One Copper on one machine. Two with different folders do not see each other."""

    state_dir: Path = Path("/var/lib/copper")  # survives a reboot: images, disks, records
    run_dir: Path = Path("/run/copper")  # does not: sockets
    native_dir: Path = Path(__file__).resolve().parents[3] / "build"  # what `scripts/` built
    qemu: str = "qemu-system-x86_64"
    accel: AccelChoice = "auto"
    keep_free_mib: int = 512  # memory that the host keeps for itself
    layers_mib: int = 0  # most memory for images' layers; 0: what the host has, less keep_free_mib
    keep_disk_mib: int = 256  # room that is left free below state_dir
    standbys: int = 2  # processes kept ready for each shape of VM in use
    copies: bool = True  # emulated clones are copies of their parent's QEMU process
    merge: bool = False  # the kernel may keep equal pages of VMs once
    huge_pages: bool = True  # of VMs that wrote much, where the host has them for programs that ask
    clone_deadline_s: float = 60.0
    cpu_ratio: float = 4.0  # virtual processors that are given out for each real one
    ticket_expires_s: float = 300.0  # a ticket that nobody used by then is taken back
    report_s: float = 2.0  # how often a host measures itself and its VMs
    tags: tuple[str, ...] = ()  # what this host is good for, as virtual clusters require it
    networks: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()
    listen: str = ""  # HOST:PORT besides the Unix socket; other than loopback needs TLS
    tls_cert: str = ""  # PEM files
    tls_key: str = ""
    dns: str = "127.0.0.1:10053"  # HOST:PORT where names are answered, or off
    dns_forward: str = ""  # HOST:PORT of who is asked for other names; empty: they are refused
    domain: str = "clusters"  # below which all names are
    trace: str = ""  # a file that gets all steps of what is done
    fake: bool = False  # machines without QEMU, for tests and simulations
    fake_hosts: int = 1
    fake_delay_ms: float = 0.0  # what each thaw, freeze and end of a fake machine takes

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "api.sock"

    @property
    def dns_socket(self) -> Path:
        return self.run_dir / "dns.sock"

    @property
    def images_dir(self) -> Path:
        return self.state_dir / "images"

    @property
    def disks_dir(self) -> Path:
        return self.state_dir / "disks"

    @property
    def vms_dir(self) -> Path:
        return self.state_dir / "vms"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "log"

    @property
    def cache_dir(self) -> Path:
        return self.state_dir / "cache"


_VARIABLES = {
    "COPPER_STATE_DIR": "state_dir",
    "COPPER_RUN_DIR": "run_dir",
    "COPPER_NATIVE_DIR": "native_dir",
    "COPPER_QEMU": "qemu",
    "COPPER_ACCEL": "accel",
    "COPPER_KEEP_FREE_MIB": "keep_free_mib",
    "COPPER_LAYERS_MIB": "layers_mib",
    "COPPER_KEEP_DISK_MIB": "keep_disk_mib",
    "COPPER_STANDBYS": "standbys",
    "COPPER_COPIES": "copies",
    "COPPER_MERGE": "merge",
    "COPPER_HUGE_PAGES": "huge_pages",
    "COPPER_CLONE_DEADLINE_S": "clone_deadline_s",
    "COPPER_CPU_RATIO": "cpu_ratio",
    "COPPER_TICKET_EXPIRES_S": "ticket_expires_s",
    "COPPER_REPORT_S": "report_s",
    "COPPER_TAGS": "tags",
    "COPPER_NETWORKS": "networks",
    "COPPER_STORAGE": "storage",
    "COPPER_LISTEN": "listen",
    "COPPER_TLS_CERT": "tls_cert",
    "COPPER_TLS_KEY": "tls_key",
    "COPPER_DNS": "dns",
    "COPPER_DNS_FORWARD": "dns_forward",
    "COPPER_DOMAIN": "domain",
    "COPPER_TRACE": "trace",
    "COPPER_FAKE": "fake",
    "COPPER_FAKE_HOSTS": "fake_hosts",
    "COPPER_FAKE_DELAY_MS": "fake_delay_ms",
}


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from COPPER_… variables. Raises BadInput that names the variable and what it takes."""
    values: dict[str, object] = {}
    defaults = Settings()
    for variable, field in _VARIABLES.items():
        text = environment.get(variable)
        if text is None or not text:
            continue
        default = getattr(defaults, field)
        if field == "accel" and text not in ("auto", "kvm", "tcg"):
            raise BadInput(f"{variable}={text!r}", advice="expected auto, kvm or tcg")
        if isinstance(default, bool):
            if text not in ("0", "1"):
                raise BadInput(f"{variable}={text!r}", advice="expected 0 or 1")
            values[field] = text == "1"
            continue
        if isinstance(default, tuple):
            values[field] = tuple(part.strip() for part in text.split(",") if part.strip())
            continue
        try:
            values[field] = (
                Path(text).absolute() if isinstance(default, Path) else type(default)(text)
            )
        except ValueError:
            raise BadInput(
                f"{variable}={text!r}", advice=f"expected a number, as {default}"
            ) from None
        number = values[field]
        if isinstance(number, int | float) and number < 0:
            raise BadInput(f"{variable}={text!r}", advice="expected a number of 0 or more")
    settings = dataclasses.replace(defaults, **values)  # type: ignore[arg-type]
    # a Unix socket's path ends at 107 bytes, and the longest of ours is this one
    longest = len(str(settings.run_dir / "q" / ("x" * 12) / "console.sock"))
    if longest > 107:
        raise BadInput(
            f"the run directory's path is too long: {settings.run_dir}",
            advice="set COPPER_RUN_DIR to a path of at most 80 characters",
        )
    return settings
