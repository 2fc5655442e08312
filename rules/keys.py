"""The keys of our files: what may stand where. One table for the parser, the JSON Schema and the guide.

``about`` is the key of a text for people, in the catalogues.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Shape(Enum):
    """What stands behind a key."""

    TEXT = auto()
    TENANT = auto()
    NAME = auto()
    REMARK = auto()
    FLAG = auto()
    LIMIT = auto()
    MOMENT = auto()
    ZONE = auto()
    WEEKLY = auto()
    MEMBERS = auto()
    SERVICES = auto()
    SERVICES_OR_NONE = auto()
    EXPECTATIONS = auto()
    GROUP_LISTS = auto()
    STATEMENTS = auto()
    GROUPS = auto()
    OWN_SERVICES = auto()
    VALIDITY = auto()
    SERVERS = auto()
    LIMITS = auto()
    LIMITS_OF_TENANTS = auto()


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping."""

    shape: Shape
    about: str
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys that a mapping may have."""

    by_name: Mapping[str, Key]
    needed: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needed", tuple(name for name, key in self.by_name.items() if key.needed))


TENANT_FILE = Keys(
    {
        "tenant": Key(Shape.TENANT, "rules.about-tenant", needed=True),
        "groups": Key(Shape.GROUPS, "rules.about-groups"),
        "forbid-dual-membership": Key(Shape.GROUP_LISTS, "rules.about-forbid-dual-membership"),
        "services": Key(Shape.OWN_SERVICES, "rules.about-own-services"),
        "allow": Key(Shape.STATEMENTS, "rules.about-allow"),
        "deny": Key(Shape.STATEMENTS, "rules.about-deny"),
        "expect": Key(Shape.EXPECTATIONS, "rules.about-expect"),
    }
)
GROUP = Keys(
    {
        "members": Key(Shape.MEMBERS, "rules.about-members", needed=True),
        "inside": Key(Shape.TEXT, "rules.about-inside"),
    }
)
STATEMENT = Keys(
    {
        "name": Key(Shape.NAME, "rules.about-name"),
        "from": Key(Shape.MEMBERS, "rules.about-from", needed=True),
        "to": Key(Shape.MEMBERS, "rules.about-to", needed=True),
        "services": Key(Shape.SERVICES, "rules.about-services", needed=True),
        "both": Key(Shape.FLAG, "rules.about-both"),
        "valid": Key(Shape.VALIDITY, "rules.about-valid"),
        "owner": Key(Shape.REMARK, "rules.about-owner"),
        "reason": Key(Shape.REMARK, "rules.about-reason"),
    }
)
VALIDITY = Keys(
    {
        "from": Key(Shape.MOMENT, "rules.about-valid-from"),
        "until": Key(Shape.MOMENT, "rules.about-valid-until"),
        "weekly": Key(Shape.WEEKLY, "rules.about-weekly"),
        "zone": Key(Shape.ZONE, "rules.about-zone", needed=True),
    }
)
PLATFORM_FILE = Keys(
    {
        "services": Key(Shape.OWN_SERVICES, "rules.about-platform-services"),
        "forbidden": Key(Shape.SERVICES, "rules.about-forbidden"),
        "servers": Key(Shape.SERVERS, "rules.about-servers"),
        "limits": Key(Shape.LIMITS, "rules.about-limits"),
        "tenants": Key(Shape.LIMITS_OF_TENANTS, "rules.about-limits-of-tenants"),
    }
)
SERVER = Keys(
    {
        "offers": Key(Shape.SERVICES_OR_NONE, "rules.about-offers"),
        "opens": Key(Shape.SERVICES_OR_NONE, "rules.about-opens"),
    }
)
LIMITS = Keys(
    {
        "groups": Key(Shape.LIMIT, "rules.about-limit-groups"),
        "members": Key(Shape.LIMIT, "rules.about-limit-members"),
        "services": Key(Shape.LIMIT, "rules.about-limit-services"),
        "statements": Key(Shape.LIMIT, "rules.about-limit-statements"),
    }
)
