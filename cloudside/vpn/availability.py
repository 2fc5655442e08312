"""What part of a time a site was connected, from its history. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Availability:
    """``up_s`` of ``known_s`` seconds; ``losses``: how often the connection was lost."""

    up_s: float
    known_s: float
    losses: int

    @property
    def percent(self) -> float | None:
        """Per cent of the time that is known; None: nothing is."""
        return 100 * self.up_s / self.known_s if self.known_s > 0 else None


def availability(
    changes: Iterable[tuple[datetime, str, bool]],
    before: Mapping[str, bool],
    *,
    since: datetime,
    until: datetime,
) -> Availability:
    """Of changes (when, gateway, up) in their order, and how each gateway had it at ``since``.

    A site is connected while any gateway has it. Time before anything is known of a site counts neither way; so a site
    that was never connected has no availability.
    """
    states = dict(before)
    began = since if before else None
    at = since
    up_s, losses = 0.0, 0
    for when, gateway, up in changes:
        if not since <= when <= until:
            continue
        began = began or when
        was = any(states.values())
        if was:
            up_s += (when - at).total_seconds()
        states[gateway] = up
        losses += was and not any(states.values())
        at = when
    if any(states.values()):
        up_s += (until - at).total_seconds()
    known_s = (until - began).total_seconds() if began is not None else 0.0
    return Availability(up_s, known_s, losses)
