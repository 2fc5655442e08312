"""What gateways count, as they tell it to the registry. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from cloudside.errors import Parameter


@dataclass(frozen=True, slots=True)
class StatementUse:
    """What came to be on top of what was told before. ``flows`` began; ``packets`` and ``bytes`` are those, both ways,
    of flows that ended. ``last_used``: when a flow began, or was seen to be open.
    """

    statement: str
    day: date
    flows: int
    packets: int
    bytes: int
    last_used: datetime

    @property
    def tenant(self) -> str:
        """Whose statement it is."""
        return self.statement.partition("/")[0]


@dataclass(frozen=True, slots=True)
class MembershipUse:
    """Bytes that a site sent and received as a member of a group, on top of what was told before: those of flows that
    ended.
    """

    site: str
    group: str
    from_site: int
    to_site: int


@dataclass(frozen=True, slots=True)
class SiteUse:
    """What a site's tunnels carried, and how long there was one, in one hour, on top of what was told before."""

    site: str
    hour: datetime
    from_site: int
    to_site: int
    connected_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Who was refused what: a source, a service and a destination, and when last.

    The ends' names are addresses where the tenant may know no more. ``reason`` is a message key, ``statements`` are
    those that deny it.
    """

    tenant: str
    source: str
    source_address: str
    destination: str
    destination_address: str
    service: str
    reason: str
    params: Mapping[str, Parameter]
    statements: tuple[str, ...]
    last_seen: datetime
