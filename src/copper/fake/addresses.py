"""Public addresses of fake machines: out of ranges that are nobody's (RFC 2544, RFC 3849)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from copper.model.api import Vm

POOL = ipaddress.ip_network("198.18.0.0/15")
POOL6 = ipaddress.ip_network("2001:db8::/64")


class FakePool:
    """Addresses that no VM has: a fake controller's stand-in for public networks."""

    def __init__(self, vms: Callable[[], list[Vm]]) -> None:
        self._vms = vms
        self._last = 0

    def lease(self) -> list[str]:
        """An IPv4 and an IPv6 address for one VM. One that was given back comes again as late as can be."""
        taken = {address for vm in self._vms() for address in vm.public}
        while True:
            self._last = self._last % (POOL.num_addresses - 2) + 1
            if (address := str(POOL[self._last])) not in taken:
                return [address, str(POOL6[self._last])]
