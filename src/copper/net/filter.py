"""What a VM may send: frames with its own MAC that carry its own addresses. Everything else ends at its tap.

One ruleset for each namespace. Which tap may send what is in sets that depend on vmids alone, so they are filled for
many VMs at once and ahead of time, and no process is started for a clone.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence

from copper.model.errors import CopperError
from copper.net.addresses import GATEWAY, GATEWAY6, ipv4_of, ipv6_of, link_local_of, mac_of
from copper.wire import trace

_TAP_NAME = re.compile(r"v(\d{1,8})")
BURST = 1000  # frames to all, of one VM in a second: a flood of them would wake every other VM
ASKS = 1000  # questions for names over UDP, of one VM in a second: one server answers all virtual clusters

# The bridge answers for every VM that is on the wire (netlink.keep_quiet). A question that it cannot answer is for one
# that is not there, and would wake all others: sixty clones that look for each other while they come up ask thousands.
# An answer that says where an address is (ARP, neighbour advertisement) must be about the sender's own. Nobody is a
# router but the host, and nobody asks who listens to what: reports of it would go to all VMs for nothing. What has
# another type, VLAN tags included, is not looked into and therefore does not pass.
TABLE = "bridge copper"
RULES = f"""
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
  set macs {{ typeof iifname . ether saddr; }}
  set addresses {{ typeof iifname . ip saddr; }}
  set addresses6 {{ type ifname . ipv6_addr; }}
  set targets {{ typeof iifname . @th,64,128; }}
  set routed {{ typeof iifname . ip saddr; }}
  set routed6 {{ type ifname . ipv6_addr; }}
  set routed_targets {{ typeof iifname . @th,64,128; }}
  set bursts {{ typeof iifname; size 2048; flags dynamic; timeout 10s; }}
  set asks {{ typeof iifname; size 2048; flags dynamic; timeout 10s; }}
  chain from_vms {{
    type filter hook prerouting priority -300; policy drop;
    iifname . ether saddr != @macs drop
    ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 \\
      update @bursts {{ iifname limit rate over {BURST}/second burst {BURST} packets }} drop
    ip protocol igmp drop
    ip daddr {GATEWAY} udp dport 53 \
      update @asks {{ iifname limit rate over {ASKS}/second burst {ASKS} packets }} drop
    ip6 daddr {GATEWAY6} udp dport 53 \
      update @asks {{ iifname limit rate over {ASKS}/second burst {ASKS} packets }} drop
    ether type ip iifname . ip saddr @addresses accept
    ether type ip iifname . ip saddr @routed accept
    ether type arp goto arps
    ether type ip6 goto ipv6s
  }}
  chain between_vms {{
    type filter hook forward priority 0; policy accept;
    ether daddr ff:ff:ff:ff:ff:ff ether type arp arp operation request drop
  }}
  chain arps {{
    arp htype != 1 drop
    arp ptype != 0x0800 drop
    arp hlen != 6 drop
    arp plen != 4 drop
    iifname . arp saddr ether != @macs drop
    iifname . arp saddr ip @addresses accept
    iifname . arp saddr ip @routed accept
    arp saddr ip 0.0.0.0 arp operation request accept
    drop
  }}
  chain ipv6s {{
    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-redirect }} drop
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} drop
    icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets iifname . @th,64,128 != @routed_targets drop
    iifname . ip6 saddr @addresses6 accept
    iifname . ip6 saddr @routed6 accept
    ip6 saddr :: icmpv6 type nd-neighbor-solicit accept
    drop
  }}
}}
"""


def tap_name(vmid: int) -> str:
    """Of a VM's tap in its virtual cluster's namespace."""
    return f"v{vmid}"


def vmid_of(tap: str) -> int | None:
    """Of a tap's name; None for another's."""
    match = _TAP_NAME.fullmatch(tap)
    return int(match[1]) if match else None


def elements(vmids: Sequence[int]) -> str:
    """What these VMs may send, to be added to the rules; again: no difference."""

    def added(name: str, *values: Callable[[int], str]) -> str:
        pairs = (f'"{tap_name(vmid)}" . {value(vmid)}' for vmid in vmids for value in values)
        return f"add element bridge copper {name} {{ {', '.join(pairs)} }}\n"

    return (
        added("macs", mac_of)
        + added("addresses", ipv4_of)
        + added("addresses6", ipv6_of, link_local_of)
        + added(
            "targets",
            lambda vmid: _number(ipv6_of(vmid)),
            lambda vmid: _number(link_local_of(vmid)),
        )
    )


def routed(addresses: Mapping[int, Sequence[str]]) -> str:
    """What VMs may send as besides, by vmid: their addresses in the world, these and no others."""
    filled: dict[str, list[str]] = {"routed": [], "routed6": [], "routed_targets": []}
    for vmid, mine in addresses.items():
        for address in mine:
            tap = f'"{tap_name(vmid)}"'
            if ":" in address:
                filled["routed6"].append(f"{tap} . {address}")
                filled["routed_targets"].append(f"{tap} . {_number(address)}")
            else:
                filled["routed"].append(f"{tap} . {address}")
    text = ""
    for name, values in filled.items():
        text += f"flush set {TABLE} {name}\n"
        if values:
            text += f"add element {TABLE} {name} {{ {', '.join(values)} }}\n"
    return text


def _number(address: str) -> str:
    return f"0x{int(ipaddress.IPv6Address(address)):032x}"


def load(text: str) -> None:
    """Has nft add this to the namespace that this thread is in, all or nothing. Raises CopperError."""
    try:
        with trace.span("nft", "network"):
            done = subprocess.run(
                ["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False
            )
    except FileNotFoundError:
        raise CopperError("there is no nft", advice="install the package nftables") from None
    if done.returncode:
        raise CopperError(f"nft refused what VMs may send: {done.stderr.strip()[:300]}")
