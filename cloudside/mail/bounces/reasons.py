"""Why a mail did not arrive, in terms that its sender understands. Pure.

Servers say it with an RFC 3463 code, and in words that often say more: 5.7.1 covers spam, a blocked address and a
closed mailing list. So known words come first and the code second.
"""

import re

from cloudside.mail.bounces.cause import ABOUT_ADDRESS, PASSING, Cause
from cloudside.mail.bounces.phrases import BY_WORDS
from cloudside.messages import text

#: RFC 3463 and its registry (RFC 5248, 7372, 7505): subject and detail without the class.
_BY_CODE = {
    "1.1": Cause.MAILBOX_UNKNOWN,
    "1.2": Cause.DOMAIN_UNKNOWN,
    "1.3": Cause.ADDRESS_MALFORMED,
    "1.4": Cause.MAILBOX_UNKNOWN,
    "1.6": Cause.MOVED,
    "1.7": Cause.SENDER_REFUSED,
    "1.8": Cause.SENDER_REFUSED,
    "1.10": Cause.DOMAIN_UNKNOWN,
    "2.1": Cause.MAILBOX_DISABLED,
    "2.2": Cause.MAILBOX_FULL,
    "2.3": Cause.TOO_LARGE,
    "2.4": Cause.NOT_ALLOWED,
    "3.1": Cause.SYSTEM,
    "3.4": Cause.TOO_LARGE,
    "4.1": Cause.UNREACHABLE,
    "4.2": Cause.UNREACHABLE,
    "4.4": Cause.DOMAIN_UNKNOWN,
    "4.5": Cause.TOO_MANY,
    "4.6": Cause.LOOP,
    "4.7": Cause.EXPIRED,
    "5.3": Cause.TOO_MANY,
    "7.4": Cause.ENCRYPTION,
    "7.5": Cause.ENCRYPTION,
    "7.10": Cause.ENCRYPTION,
    "7.20": Cause.NOT_AUTHENTICATED,
    "7.21": Cause.NOT_AUTHENTICATED,
    "7.22": Cause.NOT_AUTHENTICATED,
    "7.23": Cause.NOT_AUTHENTICATED,
    "7.24": Cause.NOT_AUTHENTICATED,
    "7.25": Cause.NOT_AUTHENTICATED,
    "7.26": Cause.NOT_AUTHENTICATED,
    "7.27": Cause.SENDER_REFUSED,
    "7.28": Cause.TOO_MANY,
}
#: What is left, by subject alone.
_BY_SUBJECT = {
    "1": Cause.MAILBOX_UNKNOWN,
    "3": Cause.SYSTEM,
    "4": Cause.UNREACHABLE,
    "5": Cause.SYSTEM,
    "6": Cause.CONTENT,
    "7": Cause.NOT_ALLOWED,
}

_WORDS = tuple((cause, re.compile("|".join(words), re.IGNORECASE)) for cause, words in BY_WORDS)
#: Codes whose word is not to be outdone by words that merely stand near: exact ones that servers use rightly.
_EXACT = ("1.1", "1.2", "1.3", "1.6", "2.2", "2.3", "3.4", "4.6")
#: ... except by these, which servers wrap into codes about the address.
_STRONG = frozenset({Cause.SUPPRESSED, Cause.MAILBOX_FULL, Cause.MAILBOX_DISABLED, Cause.DOMAIN_UNKNOWN, Cause.BLOCKED})

#: Codes about the sender's address: a domain that was not found is not the recipient's then.
_ABOUT_SENDER = ("1.7", "1.8")

_CODE = re.compile(r"[245]\.(\d{1,3}\.\d{1,3})")


def cause_of(status: str, reason: str) -> Cause:
    """The cause behind an RFC 3463 ``status`` and the remote server's words. Never fails."""
    found = _CODE.fullmatch(status)
    code = found[1] if found else "0.0"
    said = next((cause for cause, words in _WORDS if words.search(reason)), None)
    if code in _ABOUT_SENDER or (code in _EXACT and said not in _STRONG):
        return _BY_CODE[code]
    if said is not None:
        return said
    if code == "4.4" and status.startswith("4"):
        return Cause.UNREACHABLE  # a name that could not be looked up this time
    return _BY_CODE.get(code) or _BY_SUBJECT.get(code.partition(".")[0], Cause.UNKNOWN)


def said_by_words(reason: str) -> bool:
    """Whether known words are in it: tells the telling line of a report from the polite ones around it."""
    return any(words.search(reason) for _, words in _WORDS)


def is_permanent(status: str, cause: Cause) -> bool:
    """Whether sending the same again is no use."""
    return status.startswith("5") and cause not in PASSING


def suppresses(status: str, reason: str) -> bool:
    """Whether a failure says that mail to this address is not to be sent for a while."""
    cause = cause_of(status, reason)
    return is_permanent(status, cause) and cause in ABOUT_ADDRESS


def why(cause: Cause, *, language: str) -> str:
    """One or two sentences for the sender."""
    return text(f"bounces.why-{cause}", language=language)


def what_to_do(cause: Cause, *, language: str) -> str:
    """One or two sentences: what the sender can do about it."""
    return text(f"bounces.todo-{cause}", language=language)
