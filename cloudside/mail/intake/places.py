"""Whose address it is: the longest prefix that holds it, found with one look-up for each prefix length in use. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Generic, TypeVar

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
T = TypeVar("T")


class Places(Generic[T]):
    """Prefixes and what is known of each. 10,000 sites use a handful of prefix lengths."""

    def __init__(self, entries: Iterable[tuple[Network, T]] = ()) -> None:
        tables: dict[tuple[int, int], dict[int, T]] = defaultdict(dict)
        for network, value in entries:
            shift = network.max_prefixlen - network.prefixlen
            tables[network.version, shift][int(network.network_address) >> shift] = value
        self._tables = {
            version: [(shift, table) for (found, shift), table in sorted(tables.items()) if found == version]
            for version in (4, 6)
        }

    def find(self, address: Address) -> T | None:
        """What is known of the longest prefix that holds ``address``."""
        number = int(address)
        for shift, table in self._tables[address.version]:
            found = table.get(number >> shift)
            if found is not None:
                return found
        return None


def read(source: str) -> Address:
    """A peer's address as the socket tells it: without its zone, IPv4 also where IPv6 carries it. Raises ValueError."""
    address = ip_address(source.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
