"""What the listeners see at the door and refuse. Pure and bounded: whoever knocks cannot fill the memory.

Listeners put in, the watch takes out. Nothing here waits for anything.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

#: Different (sight, subject, source) that are remembered; the longest not seen is forgotten first.
REMEMBERED_MAX = 5_000
#: What is not seen again for so long is over.
QUIET_S = 3600.0
_TEXT_MAX_CHARS = 200


class Sight(StrEnum):
    """What was seen."""

    #: Mail tried from an address that belongs to no site and no server.
    UNKNOWN_SOURCE = "unknown-source"
    #: A credential used, with the right password, from where it may not be used.
    FOREIGN_SOURCE = "foreign-source"
    LOGIN_FAILED = "login-failed"
    #: Mail refused because a limit is used up.
    LIMIT_REFUSED = "limit-refused"
    #: A site that uses TLS 1.0 or 1.1 because it was permitted to.
    OLD_TLS = "old-tls"


@dataclass(slots=True)
class Seen:
    """How often, since when and when last; times in seconds since the epoch. ``detail`` is the latest."""

    sight: Sight
    subject: str
    source: str
    first: float
    last: float
    count: int
    detail: str


class Sightings:
    """Counts by what, whose and where from, until it has been quiet for an hour."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[Sight, str, str], Seen] = OrderedDict()

    def saw(self, sight: Sight, subject: str, source: str, at: float, detail: str = "") -> None:
        """Note one. ``subject``: a user name, a site, or ``<scope>/<name>`` of a limit; see Sight."""
        key = (sight, subject[:_TEXT_MAX_CHARS], source[:_TEXT_MAX_CHARS])
        seen = self._seen.get(key)
        if seen is None or at - seen.last > QUIET_S:
            self._seen[key] = Seen(*key, first=at, last=at, count=1, detail=detail[:_TEXT_MAX_CHARS])
        else:
            seen.last = max(seen.last, at)
            seen.count += 1
            seen.detail = detail[:_TEXT_MAX_CHARS] or seen.detail
        self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)

    def recent(self, sight: Sight, now: float) -> Iterator[Seen]:
        """What was seen of one sort within the last hour, longest not seen first."""
        for seen in tuple(self._seen.values()):
            if seen.sight is sight and now - seen.last <= QUIET_S:
                yield seen
