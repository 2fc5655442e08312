"""Limits at the door: connections, mails a minute, failed logins. Pure; ``now`` in seconds on any steady clock.

Whatever is remembered is bounded: the longest not seen is forgotten first, so an attacker cannot fill the memory.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

#: Addresses, user names and sites remembered.
_REMEMBERED_MAX = 10_000
#: Failures remembered for those who ask what happened.
_REPORTED_MAX = 2_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class Gate:
    """Counts open connections, in total and by place: a site, or an address that belongs to none."""

    total_max: int
    per_place_max: int
    open: int = 0
    _by_place: Counter[str] = field(default_factory=Counter)

    def enter(self, place: str) -> bool:
        """Take a place; False when there is none."""
        if self.open >= self.total_max or self._by_place[place] >= self.per_place_max:
            return False
        self.open += 1
        self._by_place[place] += 1
        return True

    def leave(self, place: str) -> None:
        """Give the place back."""
        self.open -= 1
        self._by_place[place] -= 1
        if self._by_place[place] <= 0:
            del self._by_place[place]

    @property
    def crowded(self) -> bool:
        """Whether more than three quarters of the places are taken: whoever idles has less patience coming."""
        return self.open * 4 > self.total_max * 3


@dataclass(slots=True)
class Rate:
    """How many mails a place may hand over in a minute: a bucket of that size that fills again evenly."""

    per_minute: int
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, place: str, now: float) -> bool:
        """Take one; False when the bucket is empty."""
        left, at = self._left.pop(place, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - at) * self.per_minute / 60.0)
        taken = left >= 1.0
        self._left[place] = (left - 1.0 if taken else left, now)
        if len(self._left) > _REMEMBERED_MAX:
            self._left.popitem(last=False)
        return taken


@dataclass(frozen=True, slots=True)
class FailedLogin:
    """A wrong password, or a user name that does not exist."""

    source: str
    user: str
    at: float


@dataclass(slots=True)
class LoginThrottle:
    """After too many failed logins further ones are not even checked: by address, and by user name.

    Guesses at one user name from many addresses stop at ``user_failures_max``; whoever logged in with it before, from
    that address, still may: otherwise guessing would be a way to lock a device out.
    """

    failures_max: int = 5
    window_s: float = 300.0
    user_failures_max: int = 20
    user_window_s: float = 900.0
    _by_source: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _by_user: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _good: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)
    _reported: deque[FailedLogin] = field(default_factory=lambda: deque(maxlen=_REPORTED_MAX))

    def blocked(self, source: str, now: float, user: str | None = None) -> bool:
        """Whether this address, or this user name from this address, has to wait."""
        if _recent(self._by_source, source, now, self.window_s) >= self.failures_max:
            return True
        if user is None or (user, source) in self._good:
            return False
        return _recent(self._by_user, user, now, self.user_window_s) >= self.user_failures_max

    def failed(self, source: str, now: float, user: str | None = None) -> None:
        """Remember a failure."""
        _add(self._by_source, source, now, self.failures_max)
        if user is not None:
            _add(self._by_user, user, now, self.user_failures_max)
            self._reported.append(FailedLogin(source, user, now))

    def succeeded(self, source: str, user: str | None = None) -> None:
        """A good login forgives the address earlier failures."""
        self._by_source.pop(source, None)
        if user is not None:
            self._good[user, source] = None
            self._good.move_to_end((user, source))
            _bounded(self._good)

    def failures_since(self, then: float) -> list[tuple[str, str, int]]:
        """Failures by (address, user name) with their number, most first."""
        counts = Counter((one.source, one.user) for one in self._reported if one.at >= then)
        return [(source, user, count) for (source, user), count in counts.most_common()]


def _recent(known: OrderedDict[str, deque[float]], name: str, now: float, window_s: float) -> int:
    return sum(now - at < window_s for at in known.get(name, ()))


def _add(known: OrderedDict[str, deque[float]], name: str, now: float, most: int) -> None:
    times = known.pop(name, None) or deque(maxlen=most)
    times.append(now)
    known[name] = times
    _bounded(known)


def _bounded(known: OrderedDict[K, V]) -> None:
    while len(known) > _REMEMBERED_MAX:
        known.popitem(last=False)
