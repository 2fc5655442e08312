"""The router's clock against the cloud's. Pure.

The cloud's time is the Date of its answers (RFC 9110 section 6.6.1), which nobody on the way can change.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from router_agent.errors import AgentError

#: A clock that is off by more is reported: logs, mail and time windows go wrong by it. Slow lines take seconds of this.
TOLERATED_S = 300.0

#: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED, openssl-verification-options(1).
VERIFY_CODES = frozenset({9, 10})


def skew_s(date: str | None, here: datetime) -> float | None:
    """How far our clock is ahead, in seconds; None: the header is missing or damaged."""
    try:
        there = parsedate_to_datetime(date or "")
    except (TypeError, ValueError):
        return None
    return (here - (there if there.tzinfo else there.replace(tzinfo=UTC))).total_seconds()


def complaint(ahead_s: float, here: datetime) -> AgentError | None:
    """What to say of a clock that is this far ahead; None: it is right enough."""
    if abs(ahead_s) <= TOLERATED_S:
        return None
    there = here - timedelta(seconds=ahead_s)
    return AgentError(
        "agent.clock-wrong",
        here=here.astimezone(UTC).isoformat(timespec="minutes"),
        cloud=there.astimezone(UTC).isoformat(timespec="minutes"),
    )
