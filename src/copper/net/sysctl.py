"""Settings of the kernel that each network namespace has for itself; of the one that this thread is in."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path("/proc/sys/net")


def write(name: str, value: str) -> bool:
    """Such as ipv4/ip_forward; False where the kernel does not have it."""
    try:
        (_FOLDER / name).write_text(value)
    except OSError:
        return False
    return True


def read(name: str) -> str:
    """What it is; empty where the kernel does not have it."""
    try:
        return (_FOLDER / name).read_text().strip()
    except OSError:
        return ""


def forward() -> bool:
    """From now on the namespace passes on what is for others, and asks only its own rules about it."""
    for which in ("all", "default"):
        write(f"ipv4/conf/{which}/rp_filter", "0")
    for which in ("iptables", "ip6tables", "arptables"):
        write(f"bridge/bridge-nf-call-{which}", "0")
    return write("ipv4/ip_forward", "1")


def forward6() -> bool:
    """The same of IPv6; False where the kernel has none."""
    return write("ipv6/conf/all/forwarding", "1")


def speak6(device: str) -> bool:
    """Has a device speak IPv6, with the addresses that it is given and no others; False where the kernel has none."""
    write(f"ipv6/conf/{device}/addr_gen_mode", "1")
    for which in ("accept_ra", "accept_redirects"):
        write(f"ipv6/conf/{device}/{which}", "0")
    return write(f"ipv6/conf/{device}/disable_ipv6", "0")
