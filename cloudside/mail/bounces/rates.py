"""How often one address of the world may do something at our public doors. Pure; ``now``: seconds of a steady clock."""

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import ip_address

#: Addresses remembered; the one that was quiet longest is forgotten first, so an attacker cannot fill the memory.
_REMEMBERED_MAX = 10_000
#: Whoever has one IPv6 address has its /64 (RFC 6177).
_IPV6_PREFIX_BITS = 64


@dataclass(slots=True)
class Rate:
    """A token bucket for each address: ``burst`` at once, ``per_minute`` on average."""

    per_minute: float
    burst: int
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def allows(self, source: str, now: float) -> bool:
        """Whether there is a token, without taking it."""
        return self._tokens(_place(source), now) >= 1

    def take(self, source: str, now: float) -> bool:
        """Take a token; False when there was none."""
        place = _place(source)
        tokens = self._tokens(place, now)
        taken = tokens >= 1
        self._buckets[place] = (tokens - taken, now)
        self._buckets.move_to_end(place)
        while len(self._buckets) > _REMEMBERED_MAX:
            self._buckets.popitem(last=False)
        return taken

    def _tokens(self, place: str, now: float) -> float:
        tokens, since = self._buckets.get(place, (float(self.burst), now))
        return min(float(self.burst), tokens + max(0.0, now - since) * self.per_minute / 60)


def _place(source: str) -> str:
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(int(address) >> (128 - _IPV6_PREFIX_BITS))
