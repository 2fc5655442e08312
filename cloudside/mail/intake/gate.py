"""Limits at the door: how many connections, how many failed logins. Pure; ``now`` in seconds on any steady clock."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

#: Addresses remembered for failed logins; the oldest is forgotten first, so an attacker cannot fill the memory.
_REMEMBERED_MAX = 10_000


@dataclass(slots=True)
class Gate:
    """Counts open connections, in total and by place: a site, or an address that belongs to none."""

    total_max: int
    per_place_max: int
    _open: Counter[str] = field(default_factory=Counter)

    def enter(self, place: str) -> bool:
        """Take a place; False when there is none."""
        if self._open.total() >= self.total_max or self._open[place] >= self.per_place_max:
            return False
        self._open[place] += 1
        return True

    def leave(self, place: str) -> None:
        """Give the place back."""
        self._open[place] -= 1
        if self._open[place] <= 0:
            del self._open[place]


@dataclass(slots=True)
class LoginThrottle:
    """After ``failures_max`` failed logins from an address within ``window_s``, further ones are not even checked."""

    failures_max: int = 5
    window_s: float = 300.0
    _failed: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)

    def blocked(self, source: str, now: float) -> bool:
        """Whether this address has to wait."""
        recent = [at for at in self._failed.get(source, ()) if now - at < self.window_s]
        return len(recent) >= self.failures_max

    def failed(self, source: str, now: float) -> None:
        """Remember a failure."""
        recent = [at for at in self._failed.pop(source, ()) if now - at < self.window_s]
        self._failed[source] = [*recent, now][-self.failures_max :]
        while len(self._failed) > _REMEMBERED_MAX:
            self._failed.popitem(last=False)

    def succeeded(self, source: str) -> None:
        """A good login forgives earlier ones."""
        self._failed.pop(source, None)
