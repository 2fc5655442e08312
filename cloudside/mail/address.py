"""Which envelope addresses we take. Narrower than RFC 5321: what SES refuses anyway is refused at once. Pure."""

import re
from collections.abc import Collection

#: RFC 5321 4.5.3.1.3, without the angle brackets.
ADDRESS_MAX_CHARS = 254
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
#: What comes after FROM: or TO: in a command. Old devices write the address without its angle brackets.
_PATH = re.compile(r"<([^<>\s]*)>(?:[ \t]+(\S.*))?|([^<>\s]+)(?:[ \t]+(\S.*))?", re.ASCII)
#: From fields of one address: ``a@b``, ``<a@b>``, ``words <a@b>``, ``"words" <a@b>``. Nothing in the words may look
#: like an address to somebody else's parser.
_ONE_MAILBOX = re.compile(
    r'(?:"(?:[^"\\@<>]|\\[^@<>])*"|[^"@<>,:;()\[\]\\])*<([^<>\s@"]+@[^<>\s@"]+)>'
    r'|([^<>\s@",:;()]+@[^<>\s@",:;()]+)'
)
#: RFC 5322 2.1.1; also bounds what matching a malicious one costs.
_FROM_MAX_CHARS = 998


def valid(address: str) -> bool:
    """Whether it is ``local@domain`` in ASCII, without quoting and without an address literal."""
    local, at, domain = address.rpartition("@")
    return bool(at and len(address) <= ADDRESS_MAX_CHARS and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain))


def path(text: str) -> tuple[str, str] | None:
    """The address of a MAIL or RCPT command and the parameters after it; None: no such thing.

    The null sender is ``<>``. What is inside the brackets is not judged here.
    """
    found = _PATH.fullmatch(text.strip())
    if found is None:
        return None
    if found[3] is not None:
        return found[3], found[4] or ""
    return found[1] or "<>", found[2] or ""


def permitted(address: str, allowed: Collection[str]) -> bool:
    """Whether a list names the address or, with a leading ``@``, its domain. An empty list restricts nothing.

    ``allowed`` is in lower case.
    """
    if not allowed:
        return True
    local, at, domain = address.lower().rpartition("@")
    return bool(local) and (f"{local}@{domain}" in allowed or f"{at}{domain}" in allowed)


def routed(address: str) -> bool:
    """Whether the local part may name another destination: ``user%other``, ``other!user`` (RFC 5321 appendix F.2).

    To a server that still honours it, permission for one domain would be permission for every other.
    """
    local = address.rpartition("@")[0]
    return "%" in local or "!" in local or "@" in local


def mailbox(value: str) -> str | None:
    """The one address of an unfolded From field; None: several, or nothing that every parser reads the same way."""
    found = _ONE_MAILBOX.fullmatch(value.strip()) if len(value) <= _FROM_MAX_CHARS else None
    if found is None:
        return None
    address = found[1] or found[2]
    return address if valid(address) else None
