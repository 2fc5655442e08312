"""How often one address may try to enrol and fail. Pure: the clock is an argument.

A token cannot be guessed; what this bounds is the work and the noise that a stranger can cause. Enrolments that succeed
cost nothing, so a hundred routers behind one carrier's address come in one after the other.
"""

from collections import OrderedDict
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

#: Failures that an address has in hand, and seconds until it gets one of them back.
FAILURES_AT_ONCE = 10
ONE_MORE_AFTER_S = 30.0
#: Nobody waits longer; more is pending only when our clock was set back.
PENDING_MAX_S = 7200.0
#: Addresses remembered; the longest unheard of is forgotten first.
ADDRESSES_MAX = 10_000

#: Somebody who has IPv6 has a whole /64 (RFC 4291 section 2.5.1, RFC 6177).
_PREFIX = {4: 32, 6: 64}


class Attempts:
    """Failures by address. One for the process."""

    def __init__(self) -> None:
        #: When the last of an address's failures will be forgiven, in seconds of the caller's clock.
        self._clear_at: OrderedDict[IPv4Network | IPv6Network, float] = OrderedDict()

    def wait_s(self, address: Address, now_s: float) -> float:
        """Seconds until this address may try again; 0: now."""
        return max(0.0, self._pending_s(_of(address), now_s) - (FAILURES_AT_ONCE - 1) * ONE_MORE_AFTER_S)

    def failed(self, address: Address, now_s: float) -> None:
        """Count a failure."""
        key = _of(address)
        self._clear_at[key] = now_s + self._pending_s(key, now_s) + ONE_MORE_AFTER_S
        self._clear_at.move_to_end(key)
        if len(self._clear_at) > ADDRESSES_MAX:
            self._clear_at.popitem(last=False)

    def _pending_s(self, key: IPv4Network | IPv6Network, now_s: float) -> float:
        pending_s = self._clear_at.get(key, now_s) - now_s
        return pending_s if 0 < pending_s <= PENDING_MAX_S else 0.0


def _of(address: Address) -> IPv4Network | IPv6Network:
    return ip_network((address, _PREFIX[address.version]), strict=False)
