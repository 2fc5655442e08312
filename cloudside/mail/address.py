"""Which envelope addresses we take. Narrower than RFC 5321: what SES refuses anyway is refused at once."""

import re

#: RFC 5321 4.5.3.1.3, without the angle brackets.
ADDRESS_MAX_CHARS = 254
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


def valid(address: str) -> bool:
    """Whether it is ``local@domain`` in ASCII, without quoting and without an address literal."""
    local, at, domain = address.rpartition("@")
    return bool(at and len(address) <= ADDRESS_MAX_CHARS and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain))
