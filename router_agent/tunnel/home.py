"""Back to the first gateway, politely: late, in no step with other routers, and only when it answers. Pure.

A gateway that comes back from an outage has thousands of routers that could all return at once, and may fall over
again: so each waits for a time of its own, and longer after each return that failed.
"""

from dataclasses import dataclass, replace

#: Seconds on another gateway before the first is asked whether it is there again; up to twice that. Each return that
#: failed doubles it, up to `HOME_MOST_S`.
HOME_S = 600.0
HOME_MOST_S = 6 * 3600.0

#: Answers in a row that the first gateway has to give, and seconds between the questions.
ANSWERS = 3
EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Home:
    """``at``: when to ask the first gateway next (monotonic seconds), None while the tunnel is with it or down."""

    wait_s: float = HOME_S
    at: float | None = None
    answers: int = 0


def came_up(home: Home, now: float, *, first: bool, base_s: float, roll: float) -> Home:
    """The tunnel is up, with the ``first`` gateway or another; ``base_s`` is the least waiting time."""
    if first:
        return Home(wait_s=base_s)
    wait_s = max(base_s, home.wait_s)
    return Home(wait_s, now + wait_s * (1 + roll))


def due(home: Home, now: float) -> bool:
    """Whether to ask the first gateway now."""
    return home.at is not None and now >= home.at


def heard(home: Home, now: float, *, answered: bool, roll: float) -> tuple[Home, bool]:
    """The first gateway has answered, or not; True: go there."""
    if not answered:
        return replace(home, at=now + home.wait_s * (1 + roll), answers=0), False
    if home.answers + 1 >= ANSWERS:
        return Home(min(HOME_MOST_S, home.wait_s * 2)), True
    return replace(home, at=now + EVERY_S, answers=home.answers + 1), False
