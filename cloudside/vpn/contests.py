"""Two routers with one identity: each takes the tunnel from the other, again and again. Pure.

charon gives a site's tunnel to whoever proves the identity last (``unique = replace``), so that a router that rebooted
is not locked out. A copied identity then shows as a tunnel that comes *back* to a peer it had been taken away from.
A router that moves does so too, when it changes between its wired and its mobile line; but that keeps to the wired one
for minutes before it changes back, so the number of returns tells the two apart.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudside.datapath.problems import Problem, of
from linux.charon import SaEvent

#: Comings of one site that are remembered: more say nothing more.
_KEPT = 64

Peer = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Contested:
    """``first`` and ``second``: the peers of the last return, as ``address:port``."""

    site: str
    first: str
    second: str
    returns: int


@dataclass(slots=True)
class Comings:
    """When each site's tunnel was set up, and from where, in the last ``window_s`` seconds."""

    returns: int
    window_s: float
    _seen: dict[str, deque[tuple[float, Peer]]] = field(default_factory=dict)

    def note(self, event: SaEvent, *, now_s: float) -> Contested | None:
        """Take an event; what is contested by it. ``now_s``: monotonic seconds."""
        if event.kind != "ike" or not event.up:
            return None
        seen = self._seen.setdefault(event.sa.remote_id, deque(maxlen=_KEPT))
        seen.append((now_s, (event.sa.remote_host, event.sa.remote_port)))
        while seen[0][0] < now_s - self.window_s:
            seen.popleft()
        peers = [peer for _, peer in seen]
        back = [at for at in range(2, len(peers)) if _returned(peers, at)]
        if len(back) < self.returns:
            return None
        return Contested(event.sa.remote_id, _written(peers[back[-1]]), _written(peers[back[-1] - 1]), len(back))

    def forget_old(self, *, now_s: float) -> None:
        """Drop sites that nothing happened to."""
        self._seen = {site: seen for site, seen in self._seen.items() if seen[-1][0] >= now_s - self.window_s}


def problem_of(found: Contested, *, window_s: float) -> Problem:
    """As a problem. Without the number, which would make another problem of it each time."""
    first, second = sorted((found.first, found.second))
    params: Mapping[str, str | int] = {
        "site": found.site, "first": first, "second": second, "minutes": max(1, round(window_s / 60)),
    }  # fmt: skip
    return of("vpn.identity-contested", params)


def _returned(peers: list[Peer], at: int) -> bool:
    """Whether the tunnel came back: to an address it had left, or behind one address to a port it had left."""
    here, before, earlier = peers[at], peers[at - 1], peers[: at - 1]
    if here[0] != before[0]:
        return any(peer[0] == here[0] for peer in earlier)
    return here != before and here in earlier


def _written(peer: Peer) -> str:
    return peer[0]
