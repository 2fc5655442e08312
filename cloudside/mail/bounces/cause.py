"""Why a mail did not arrive: the causes that are told apart. Pure."""

from enum import StrEnum


class Cause(StrEnum):
    """What was in the way. Each has two texts: ``bounces.why-<value>`` and ``bounces.todo-<value>``."""

    MAILBOX_UNKNOWN = "mailbox-unknown"
    MAILBOX_DISABLED = "mailbox-disabled"
    MAILBOX_FULL = "mailbox-full"
    MOVED = "moved"
    DOMAIN_UNKNOWN = "domain-unknown"
    ADDRESS_MALFORMED = "address-malformed"
    TOO_LARGE = "too-large"
    SPAM = "spam"
    BLOCKED = "blocked"
    NOT_AUTHENTICATED = "not-authenticated"
    NOT_ALLOWED = "not-allowed"
    SENDER_REFUSED = "sender-refused"
    ATTACHMENT = "attachment"
    CONTENT = "content"
    TOO_MANY = "too-many"
    UNREACHABLE = "unreachable"
    EXPIRED = "expired"
    LOOP = "loop"
    ENCRYPTION = "encryption"
    SYSTEM = "system"
    SUPPRESSED = "suppressed"
    CONFIRMATION = "confirmation"
    UNKNOWN = "unknown"


#: The address itself is no good: mail to it only hurts the sender's name. The other causes pass, or lie in one mail:
#: a report that was too large must not keep the next fire alarm from the same mailbox.
ABOUT_ADDRESS = frozenset(
    {Cause.MAILBOX_UNKNOWN, Cause.MAILBOX_DISABLED, Cause.MOVED, Cause.DOMAIN_UNKNOWN, Cause.ADDRESS_MALFORMED}
)
#: The same mail can go through later, whatever class the code has.
PASSING = frozenset({Cause.MAILBOX_FULL, Cause.TOO_MANY, Cause.UNREACHABLE, Cause.EXPIRED, Cause.CONFIRMATION})
