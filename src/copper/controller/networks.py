"""Public networks as resources: made, shown and deleted by administrators, named by users."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Sequence

from copper.controller.book import Book, now
from copper.controller.hosts import Hosts
from copper.controller.leases import Leases
from copper.controller.pools import in_common, parse_pool
from copper.controller.rows import NetworkRow, network_key
from copper.model.errors import BadInput, Conflict, NotFound
from copper.model.names import check_name
from copper.model.networks import Attachment, Lease, Network, NewNetwork
from copper.wire.steps import step

# as Linux takes it for an interface's name
BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII)
OPEN, NONE = "open", "none"


class Networks:
    """All public networks of the book."""

    def __init__(self, book: Book, hosts: Hosts, leases: Leases) -> None:
        self._book = book
        self._hosts = hosts
        self._leases = leases

    def row(self, name: str) -> NetworkRow:
        """Raises NotFound."""
        row = self._book.find(network_key(name), NetworkRow)
        if row is None:
            raise NotFound(
                f"there is no network {name!r:.60}", advice="copper network list shows all"
            )
        return row

    def show(self, name: str) -> Network:
        """Raises NotFound."""
        row = self.row(name)
        return Network(
            name=row.name,
            mode=row.mode,
            bridge=row.bridge,
            pool=row.pool,
            size=self._leases.size(name),
            left=self._leases.left(name),
            hosts=[one.name for one in self._hosts.capacity.facts() if name in one.networks],
            created=row.created,
        )

    def all(self) -> list[Network]:
        return [self.show(row.name) for row in self._book.all("networks", NetworkRow)]

    def leases(self, name: str) -> list[Lease]:
        """Who has which of its addresses, in the order of their letters. Raises NotFound."""
        self.row(name)
        return self._leases.of_network(name)

    async def create(self, new: NewNetwork) -> Network:
        """Raises BadInput, Conflict (the name or some addresses are another's)."""
        check_name(new.name, "network")
        if new.bridge and not BRIDGE.fullmatch(new.bridge):
            raise BadInput(
                f"bridge {new.bridge!r:.40}", advice="expected the name of a bridge or interface"
            )
        ranges = parse_pool(new.pool)
        key = network_key(new.name)
        await self._book.settled(key)
        # from here to the submission nothing else is decided
        if self._book.find(key, NetworkRow) is not None:
            raise Conflict(f"network {new.name!r} exists")
        for row in self._book.all("networks", NetworkRow):
            common = in_common(ranges, parse_pool(row.pool))
            if common is not None:
                raise Conflict(f"network {row.name} has addresses of {common.text} as well")
        made = NetworkRow(
            name=new.name,
            pool=[one.text for one in ranges],
            mode=new.mode,
            bridge=new.bridge,
            created=now(),
        )
        await asyncio.shield(self._book.submit(expect={key: None}, put={key: made}))
        await step("network.written")
        return self.show(new.name)

    async def delete(self, name: str) -> None:
        """Raises NotFound, Conflict while an address is leased or promised, or a virtual cluster names it."""
        key = network_key(name)
        await self._book.settled(key)
        row = self.row(name)
        users = [one.name for one in self._book.clusters() if name in attached(one.networks)]
        given = self._leases.of_network(name)
        if given or self._leases.promised(name):
            vms = sorted({one.vm for one in given})
            who = ", ".join(vms[:5]) or "tickets"
            raise Conflict(
                f"network {name} is in use: {who} have addresses of it", advice="end them first"
            )
        if users:
            raise Conflict(
                f"network {name} is in use by {', '.join(users[:5])}",
                advice=f"gc-vc delete {users[0]} lets go of it",
            )
        await asyncio.shield(self._book.submit(expect={key: row}, delete=[key]))
        await step("network.deleted")


def attached(networks: Sequence[Attachment]) -> list[str]:
    """Their names. Raises BadInput for one that is there twice."""
    names = [one.name for one in networks]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"network {name} is given twice")
    return names


def check_egress(text: str | None, networks: Sequence[Attachment]) -> str:
    """What of the world a virtual cluster may reach, as it is written down. Raises BadInput.

    Nobody expects a way out of what has no address outside; what has one would be of little use without.
    """
    if text is None:
        return OPEN if networks else NONE
    if text in (OPEN, NONE):
        return text
    try:
        found = [str(ipaddress.ip_network(part.strip())) for part in text.split(",")]
    except ValueError:
        raise BadInput(
            f"egress {text!r:.60}",
            advice="expected open, none, or prefixes such as 192.0.2.0/24,2001:db8::/32",
        ) from None
    return ",".join(dict.fromkeys(found))
