"""What notices state: counts against limits, top recipients and sources, subjects, commands. Foreign text is made safe.

Asked of the queue only when something is told.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cloudside.mail.intake.origins import Snapshot
from cloudside.mail.message import one_line
from cloudside.mail.model import Scope, Traffic
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch import remedies
from cloudside.mail.watch.anomaly import Unusual
from cloudside.mail.watch.rates import Crossing, Window

_TEXT_MAX_CHARS = 80
_NAMED_MAX = 5


def shown_time(seconds: float) -> str:
    """A moment for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def named(counts: Iterable[tuple[str, int]]) -> str:
    """``a (3), b (1)``, each safe to show."""
    shown = [f"{one_line(name, _TEXT_MAX_CHARS) or '-'} ({count})" for name, count in counts]
    return ", ".join(shown[:_NAMED_MAX]) or "-"


def origin_of(scope: Scope, name: str, snapshot: Snapshot) -> str:
    """The site or server that a name belongs to; empty: a tenant, or nobody's any more."""
    if scope is Scope.SITE:
        return name
    if scope is Scope.TENANT:
        return ""
    credential = snapshot.credentials.get(name)
    if credential is not None:
        return credential.site_id
    found = snapshot.find(name)
    return "" if found is None else found.name


def subject_of(scope: Scope, name: str, snapshot: Snapshot) -> str:
    """What an incident about it is called: ``tokyo-1``, ``server/web``, ``tokyo-1/plc``, ``tenant/acme``."""
    if scope is Scope.SITE:
        return name
    if scope is Scope.TENANT:
        return f"tenant/{name}"
    return f"{origin_of(scope, name, snapshot) or 'device'}/{name}"


def users_of(origin: str, devices: Mapping[str, int], snapshot: Snapshot) -> list[str]:
    """Whose user names sent for a site, most mail first; ``devices``: recipients by device."""
    own = [user for user in devices if user in snapshot.credentials and snapshot.credentials[user].site_id == origin]
    return sorted(own, key=lambda user: (-devices[user], user))


def _told(traffic: Traffic) -> dict[str, Any]:
    return {
        "recipients": named(traffic.recipients),
        "sources": named(traffic.sources),
        "subjects": " / ".join(one_line(subject, _TEXT_MAX_CHARS) or "-" for subject in traffic.subjects[:3]) or "-",
    }


async def of_crossing(
    crossing: Crossing, hour: int, devices: Mapping[str, int], queue: Queue, snapshot: Snapshot
) -> dict[str, Any]:
    """A limit that is near or exceeded."""
    origin = origin_of(crossing.scope, crossing.name, snapshot)
    since = crossing.start * 3600.0
    users = [crossing.name] if crossing.name in snapshot.credentials else users_of(origin, devices, snapshot)
    return {
        "hour": hour,
        "window": f"{shown_time(since)} - {shown_time((hour + 1) * 3600.0)}",
        "count": crossing.count,
        "limit": crossing.most,
        "percent": round(100 * crossing.count / crossing.most) if crossing.most else 100,
        "per_key": "alerts.per-hour" if crossing.window is Window.HOUR else "alerts.per-day",
        "then_key": f"alerts.then-{crossing.action}",
        "commands": remedies.of_flood(
            crossing.scope, crossing.name, origin=origin, users=users, reason="flood"
        ),
        **_told(await queue.traffic(crossing.scope, crossing.name, since)),
    }  # fmt: skip


async def of_unusual(
    origin: str, found: Unusual, hour: int, devices: Mapping[str, int], queue: Queue, snapshot: Snapshot
) -> dict[str, Any]:
    """Mail that is too much for this site."""
    since = (hour - (1 if found.span == "hours" else 23)) * 3600.0
    return {
        "window": f"{shown_time(since)} - {shown_time((hour + 1) * 3600.0)}",
        "count": found.count,
        "expected": round(found.expected, 1),
        "limit": found.most,
        "span_key": f"alerts.span-{found.span}",
        "commands": remedies.of_unusual(origin, users=users_of(origin, devices, snapshot), reason="flood"),
        **_told(await queue.traffic(Scope.SITE, origin, since)),
    }


async def of_origin(
    origin: str, devices: Mapping[str, int], queue: Queue, snapshot: Snapshot, since: float, names: Sequence[str]
) -> dict[str, Any]:
    """Mail of a site to or from where it never was; ``names``: these domains or addresses."""
    return {
        "count": len(names),
        "names": ", ".join(one_line(name, _TEXT_MAX_CHARS) for name in names[:10]) + (" ..." if names[10:] else ""),
        "since": shown_time(since),
        "commands": remedies.of_unusual(origin, users=users_of(origin, devices, snapshot), reason="suspicious"),
        **_told(await queue.traffic(Scope.SITE, origin, since)),
    }
