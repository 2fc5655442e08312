"""What the smarthost's answers mean, and when to try again. Pure.

Amazon SES developer guide, "SMTP response codes": 454 "Throttling failure: Maximum sending rate exceeded" and "Daily
message quota exceeded" concern the account, not the recipient, and use up none of a recipient's tries. 53x is our
credential, and some 554 are about the account as well. 451 4.4.2 is the farewell to a connection that was idle.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

#: The first attempts after a failure come close together, later ones far apart (RFC 5321 4.5.4.1).
FIRST_RETRIES = 2
#: As long as any id that we have seen of a smarthost, and then some.
REMOTE_ID_MAX_CHARS = 128

_REMOTE_ID = re.compile(r"[!-~]+")
#: Postfix, Exim, Haraka and their like: "2.0.0 Ok: queued as 4F2..."; SES: "Ok 0100...-000000".
_QUEUED_AS = re.compile(r"\b(?:queued as|id=)\s*(\S+)", re.IGNORECASE)
_OK = re.compile(r"(?:2\.\d{1,3}\.\d{1,3}\s+)?ok:?\s+(\S+)\s*\Z", re.IGNORECASE)
_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}")
#: SES about our account, with a code that otherwise is about one message. Mail that waits is not to blame for a paused
#: account, and bouncing all of it would lose it. Only whole sentences of SES's: "Access denied" and "not verified" can
#: be about one sender's domain, and one tenant must not be able to stop the others.
_ACCOUNT = re.compile(
    r"(?:5\.\d+\.\d+ )?(?:message rejected: )?sending (?:is )?(?:paused|suspended|disabled|shut ?down)"
    r" for (?:this|your) account",
    re.IGNORECASE,
)


class Verdict(StrEnum):
    """What one attempt came to."""

    DELIVERED = "delivered"
    #: This recipient, for now.
    TEMPORARY = "temporary"
    #: This recipient, for good.
    PERMANENT = "permanent"
    #: The address is on the tenant's list; nothing was sent.
    SUPPRESSED = "suppressed"
    #: The account sends too fast.
    THROTTLED = "throttled"
    #: The account's day is used up.
    QUOTA = "quota"
    #: What is left of the account's day is kept for urgent mail.
    RESERVE = "reserve"
    #: The smarthost does not take our credential or our TLS, or the account is paused.
    REFUSED = "refused"
    #: No usable connection.
    UNREACHABLE = "unreachable"


#: Verdicts that say nothing about the message: it waits and keeps its tries.
NOT_THE_MESSAGE = frozenset({Verdict.THROTTLED, Verdict.QUOTA, Verdict.REFUSED, Verdict.UNREACHABLE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and the words it came with (one line). ``remote_id``: the smarthost's name for the message."""

    verdict: Verdict
    reply: str
    remote_id: str = ""


class Stage(StrEnum):
    """Where in the conversation an answer came."""

    SESSION = "session"
    MESSAGE = "message"


def judge(code: int, text: str, stage: Stage) -> Verdict:
    """The verdict on a reply that was not 2xx."""
    lowered = text.lower()
    if code == 454 and "throttling" in lowered:
        return Verdict.QUOTA if "quota" in lowered else Verdict.THROTTLED
    if code in (530, 534, 535, 538):
        return Verdict.REFUSED
    if code == 421 or (code == 451 and "4.4.2" in text):
        return Verdict.UNREACHABLE
    if stage is Stage.SESSION:
        return Verdict.REFUSED if code >= 500 else Verdict.UNREACHABLE
    if code >= 500:
        return Verdict.REFUSED if code == 554 and _ACCOUNT.match(text) else Verdict.PERMANENT
    return Verdict.TEMPORARY


def remote_id_of(text: str) -> str:
    """The smarthost's name for a message in its answer to the data ("Ok 0100018d-...", "queued as 4F2..."), or "".

    ``text`` is the reply without its code. Bounces and SES's notices name the message so.
    """
    found = _QUEUED_AS.search(text) or _OK.match(text)
    if found is None:
        return ""
    name = found.group(1).strip("<>[](),;")
    return name if len(name) <= REMOTE_ID_MAX_CHARS and _REMOTE_ID.fullmatch(name) else ""


def enhanced_status(reply: str) -> str:
    """The RFC 3463 code in a permanent reply; 5.0.0 when it has none."""
    for word in reply.split()[:3]:
        if _STATUS.fullmatch(word) and word[0] == "5":
            return word
    return "5.0.0"


def retry_delay_s(failures: int, *, first_s: float, later_s: float) -> float:
    """Seconds to wait after the ``failures``-th temporary failure of a recipient (1 is the first)."""
    return first_s if failures <= FIRST_RETRIES else later_s


def hold_delay_s(faults: int, *, longest_s: float) -> float:
    """Seconds the whole queue rests after the ``faults``-th fault of ours in a row: 1, 2, 4, ..."""
    return float(min(longest_s, 2.0 ** min(faults - 1, 30)))
