"""What is translated and what passes between a virtual cluster, its host and the world: rules for nftables.

Three tables, from the VM outwards. In the virtual cluster's namespace its VMs' own addresses become public ones, one
to one, unless these are the VMs' own as well (routed), and what may pass is decided. In the way out of all of them
(net/world.py) ports lead to virtual clusters. On the host ports lead to the way out, and what has no public address
goes out under the host's own.

What passes is asked of every packet, not only of a connection's first: what is taken back ends at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from copper.model.networks import Exposure

CLUSTER_TABLE, ROUTER_TABLE = "inet world", "ip copper"
BRIDGE, DOOR, UP = "copper", "world", "up"
LINKS = ipaddress.IPv4Network("100.96.0.0/11")  # of virtual clusters, seen by the way out only
UPLINKS = ipaddress.IPv4Network("100.64.0.0/11")  # of the way out and the host
ANYWHERE, ANYWHERE6 = "0.0.0.0/0", "::/0"
FLOWS = 4096  # connections of one VM to the world: the host has room for 65,536 at least, of all its VMs
MAPS = ("to_vm", "from_vm", "marks", "marks_in", "marks6")
SETS = ("pairs", "routed", "routed6", "open", "open6", "ways", "ways6", "ported")
# the world may have the addresses that VMs have: who comes in with one is the gateway to the VM, and is answered
# by the door whatever his address
PRIVATE, PRIVATE6 = "10.0.0.0/8", "fd00:c::/64"
OUTER, INNER = "fe80::1", "fe80::2"  # of each cable's ends for IPv6: towards the world, towards VMs
CAME_IN, ANSWERS = (
    1 << 30,
    1,
)  # in the mark of a connection; the mark of its answers, and their table of routes


def cluster_rules(link: str) -> str:
    """Of a virtual cluster's namespace, whose door to the way out has this address."""
    return f"""
add table {CLUSTER_TABLE}
delete table {CLUSTER_TABLE}
table {CLUSTER_TABLE} {{
  map to_vm {{ type ipv4_addr : ipv4_addr; }}
  map from_vm {{ type ipv4_addr : ipv4_addr; }}
  map marks {{ type ipv4_addr : mark; }}
  map marks_in {{ type ipv4_addr : mark; }}
  map marks6 {{ type ipv6_addr : mark; }}
  set pairs {{ type ipv4_addr . ipv4_addr; }}
  set routed {{ type ipv4_addr; }}
  set routed6 {{ type ipv6_addr; }}
  set open {{ type ipv4_addr; }}
  set open6 {{ type ipv6_addr; }}
  set ways {{ type ipv4_addr . ipv4_addr; flags interval; }}
  set ways6 {{ type ipv6_addr . ipv6_addr; flags interval; }}
  map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  set ported {{ type inet_proto . inet_service . ipv4_addr; }}
  set flows {{ type mark; size 65535; flags dynamic; }}
  chain arriving {{
    type nat hook prerouting priority dstnat;
    dnat ip to ip daddr map @to_vm
    iifname "{DOOR}" ip daddr {link} dnat ip to meta l4proto . th dport map @ports
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    oifname "{DOOR}" ip saddr @routed accept
    oifname "{DOOR}" snat ip to ip saddr map @from_vm
    oifname "{DOOR}" snat ip to {link}
    iifname "{BRIDGE}" oifname "{BRIDGE}" ct status dnat snat ip to ip saddr map @from_vm
    iifname "{BRIDGE}" oifname "{BRIDGE}" ct status dnat masquerade
    iifname "{DOOR}" oifname "{BRIDGE}" ip saddr {PRIVATE} masquerade
  }}
  chain answering {{
    type filter hook prerouting priority mangle;
    iifname "{BRIDGE}" ct direction reply ct mark & {CAME_IN:#x} != 0 meta mark set {ANSWERS}
  }}
  chain passing {{
    type filter hook forward priority filter; policy drop;
    iifname "{BRIDGE}" oifname "{BRIDGE}" accept
    iifname "{DOOR}" ip6 saddr {PRIVATE6} drop
    iifname "{DOOR}" ct state new ct mark set ct reply ip saddr map @marks_in
    iifname "{DOOR}" ct state new ct mark set ct reply ip6 saddr map @marks6
    iifname "{BRIDGE}" ct state new ct mark set ct original ip saddr map @marks
    iifname "{BRIDGE}" ct state new ct mark set ct original ip6 saddr map @marks6
    iifname "{BRIDGE}" ct state new add @flows {{ ct mark ct count over {FLOWS} }} drop
    ct original ip daddr . ct reply ip saddr @pairs accept
    ct original ip daddr @routed accept
    ct original ip6 daddr @routed6 accept
    ct original ip daddr {link} ct direction original meta l4proto . th dport . ip daddr @ported accept
    ct original ip daddr {link} ct direction reply meta l4proto . th sport . ip saddr @ported accept
    ct original ip daddr {link} ct state related accept
    ct original ip saddr @open accept
    ct original ip6 saddr @open6 accept
    ct original ip saddr . ct original ip daddr @ways accept
    ct original ip6 saddr . ct original ip6 daddr @ways6 accept
    iifname "{BRIDGE}" reject with icmpx admin-prohibited
  }}
  chain here {{
    type filter hook input priority filter;
    iifname "{DOOR}" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    iifname "{DOOR}" drop
  }}
}}
"""


def mark_of(vmid: int) -> int:
    """Of a VM's connections, by which they are forgotten."""
    return vmid + 1


def cluster_elements(exposures: Mapping[int, Exposure]) -> str:
    """What is in force for these VMs, and for no other of the virtual cluster's from then on."""
    filled: dict[str, list[str]] = {name: [] for name in (*MAPS, *SETS, "ports")}
    for vmid, one in sorted(exposures.items()):
        private, mark = one.private, mark_of(vmid)
        for own in owns_of(one):
            if ":" in own:
                filled["marks6"].append(f"{own} : {mark}")
                filled["routed6"].append(own)
                continue
            filled["marks"].append(f"{own} : {mark}")
            filled["marks_in"].append(f"{own} : {mark | CAME_IN}")
            if own != private:
                filled["routed"].append(own)
        for place, address in enumerate(translated(one)):
            filled["to_vm"].append(f"{address} : {private}")
            filled["pairs"].append(f"{address} . {private}")
            if not place:  # what it sends has one sender
                filled["from_vm"].append(f"{private} : {address}")
        for own, prefix in ways_of(one):
            six = "6" if ":" in own else ""
            if prefix in (ANYWHERE, ANYWHERE6):
                filled[f"open{six}"].append(own)
            else:
                filled[f"ways{six}"].append(f"{own} . {prefix}")
        for forward in one.forwards:
            to = f"{private} . {forward.port}"
            filled["ports"].append(f"{forward.protocol} . {forward.host_port} : {to}")
            filled["ported"].append(f"{forward.protocol} . {forward.port} . {private}")
    return "".join(_filled(CLUSTER_TABLE, name, values) for name, values in filled.items())


def router_rules(uplink: str) -> str:
    """Of the way out, whose own address on the host's side this is."""
    return f"""
add table {ROUTER_TABLE}
delete table {ROUTER_TABLE}
table {ROUTER_TABLE} {{
  map ports {{ type inet_proto . inet_service : ipv4_addr; }}
  chain arriving {{
    type nat hook prerouting priority dstnat;
    iifname "{UP}" ip daddr {uplink} dnat to meta l4proto . th dport map @ports
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    oifname "{UP}" ip saddr {LINKS} snat to {uplink}
  }}
}}
"""


def router_elements(ports: Mapping[tuple[str, int], str]) -> str:
    """Which port leads to which virtual cluster's link."""
    values = [f"{protocol} . {port} : {link}" for (protocol, port), link in sorted(ports.items())]
    return _filled(ROUTER_TABLE, "ports", values)


def host_rules(table: str, device: str, uplink: str) -> str:
    """The one table that a Copper has on the host's side."""
    to = f"fib daddr type local meta l4proto . th dport @ports dnat to {uplink}"
    return f"""
add table {table}
delete table {table}
table {table} {{
  set ports {{ type inet_proto . inet_service; }}
  chain arriving {{
    type nat hook prerouting priority dstnat;
    iifname != "{device}" {to}
  }}
  chain sent {{
    type nat hook output priority -100;
    ip daddr != 127.0.0.0/8 {to}
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    ip saddr {uplink} oifname != "{device}" masquerade
  }}
}}
"""


def host_elements(table: str, ports: Iterable[tuple[str, int]]) -> str:
    """Which of the host's ports lead to the way out."""
    return _filled(table, "ports", [f"{protocol} . {port}" for protocol, port in sorted(ports)])


def translated(exposure: Exposure) -> list[str]:
    """The public addresses that are translated to the VM's own."""
    return [one.address for one in exposure.addresses if one.mode == "nat"]


def owns_of(exposure: Exposure) -> list[str]:
    """What the VM sends as: its private address, and what is routed to it. Of IPv6 the latter only reach the world."""
    return [exposure.private, *exposure.routed]


def ways_of(exposure: Exposure) -> list[tuple[str, str]]:
    """Where it may go from each of its addresses, in as few prefixes as say it."""
    networks = [ipaddress.ip_network(prefix, strict=False) for prefix in exposure.egress]
    fours = ipaddress.collapse_addresses(
        one for one in networks if isinstance(one, ipaddress.IPv4Network)
    )
    sixes = ipaddress.collapse_addresses(
        one for one in networks if isinstance(one, ipaddress.IPv6Network)
    )
    ways = {False: [str(one) for one in fours], True: [str(one) for one in sixes]}
    return [(own, way) for own in owns_of(exposure) for way in ways[":" in own]]


def takes_back(before: Exposure, now: Exposure) -> bool:
    """Whether something led to the VM that does no longer."""
    return bool(
        {one.address for one in before.addresses} - {one.address for one in now.addresses}
        or {str(one) for one in before.forwards} - {str(one) for one in now.forwards}
    )


def link_of(number: int) -> str:
    """The address of a virtual cluster's door; `number` is its device's in the way out."""
    return str(LINKS[1 + number % (LINKS.num_addresses - 4)])


ROUTER_LINK = str(LINKS[-2])  # the other end of each of these


def uplink_of(number: int) -> tuple[str, str]:
    """The host's and the way out's addresses; `number` is the device's on the host."""
    first = 2 * (number % (UPLINKS.num_addresses // 2))
    return str(UPLINKS[first]), str(UPLINKS[first + 1])


def _filled(table: str, name: str, values: list[str]) -> str:
    kind = "map" if name in MAPS else "set"
    if name == "ports":
        kind = "map" if table in (CLUSTER_TABLE, ROUTER_TABLE) else "set"
    text = f"flush {kind} {table} {name}\n"
    if values:
        text += f"add element {table} {name} {{ {', '.join(dict.fromkeys(values))} }}\n"
    return text
