"""Routers that are not what they say: each makes an incident for staff, however often it calls.

device-moved     a device id at another site than it was enrolled for: the router was carried there, or copied
device-unknown   a site's certificate with a device id that nobody knows: the certificate was copied, or a router mended
router-replaced  a certificate of a router that was replaced or shut out still calls: two have one identity

The incident ends by itself once nothing of the kind was seen for a while.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cloudside.alerts import incidents
from cloudside.registry.addresses import Address
from cloudside.registry.tables import Incident, Site

MOVED = "device-moved"
UNKNOWN = "device-unknown"
REPLACED = "router-replaced"

#: How long nothing may have been seen before an incident of this kind ends.
QUIET: dict[str, timedelta] = {MOVED: timedelta(days=1), UNKNOWN: timedelta(hours=1), REPLACED: timedelta(hours=1)}
#: A call that repeats itself is written down this often.
NOTED_EVERY = timedelta(minutes=5)
#: Different ones kept in memory between two writings.
_KEPT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody who was refused at ``site``. ``device_sha256``: of the device id; ``other``: the site it belongs to."""

    kind: str
    site: str
    device_sha256: str = ""
    other: str = ""


class Strangers:
    """Which of them are to be written down, so that a router in a loop is no load. One for the process."""

    def __init__(self) -> None:
        #: By kind and sites. Not by device id: a router that makes one up for each call would be news each time.
        self._noted: dict[tuple[str, str, str], datetime] = {}

    def is_news(self, stranger: Stranger, now: datetime) -> bool:
        """Whether to call `note` now; remembers that it was."""
        key = (stranger.kind, stranger.site, stranger.other)
        before = self._noted.get(key)
        if before is not None and before <= now < before + NOTED_EVERY:
            return False
        if len(self._noted) >= _KEPT_MAX:
            self._noted.clear()
        self._noted[key] = now
        return True


def note(session: Session, stranger: Stranger, source: Address, now: datetime) -> bool:
    """Open the incident, or say in the open one that it was seen again. True: it is new. One writing session."""
    site, other = session.get(Site, stranger.site), session.get(Site, stranger.other)
    subject = stranger.site
    if site is None or (other is not None and other.tenant_id != site.tenant_id):
        # Two tenants' sites: neither may read the other's name, so it is the operators' alone. No site is called so.
        subject = f"{stranger.kind} {stranger.device_sha256[:12]}"
    params = {
        "site": stranger.site,
        "other": stranger.other or "-",
        "device": stranger.device_sha256[:12] or "-",
        "source": str(source),
        "seen": now.isoformat(timespec="seconds"),
    }
    if incidents.open_incident(session, stranger.kind, subject, params, now):
        return True
    for incident in incidents.open_incidents(session, stranger.kind):
        if incident.subject == subject:
            incident.params = params
    return False


def close_quiet(session: Session, now: datetime) -> int:
    """End the incidents of what has not been seen for its time; how many."""
    ended = 0
    for kind, quiet in QUIET.items():
        for incident in incidents.open_incidents(session, kind):
            if _seen(incident) <= now - quiet:
                ended += incidents.close_incident(session, kind, incident.subject, now)
    return ended


def _seen(incident: Incident) -> datetime:
    try:
        return datetime.fromisoformat(str(incident.params["seen"]))
    except (KeyError, ValueError):
        return incident.opened_at
