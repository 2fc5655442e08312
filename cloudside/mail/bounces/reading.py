"""Reading what comes back to a signed return address: a failure, a delay, an auto-reply? Any bytes are accepted.

Which message and recipient it is about is known from the address, never guessed from the text (RFC 3464 reports name
recipients that forwarding has changed). The text only tells what happened and why.

structured  reports written for programs    prose  for people    reasons  why, in the sender's terms
"""

import email
import hashlib
import itertools
import re
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from enum import StrEnum

import flufl.bounce

from cloudside.mail.bounces import prose, reasons, structured
from cloudside.mail.bounces.cause import Cause
from cloudside.mail.message import one_line

#: Reports put the facts first and the returned mail last; more than this is not read.
READ_MAX_BYTES = 256 * 1024
#: Each line and each part costs the parser time; so many are in no report.
LINES_MAX = 6000
BLANK_LINES_MAX = 1500
_REASON_MAX_CHARS = 400
_FEEDBACK_MAX_CHARS = 200
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK_LINE = re.compile(rb"(?<=\n)\r?\n")
_STATUS = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.]*\d)")
_REPLY = re.compile(r"(?<![\d.])([45])\d\d(?=[ -])")
#: The head of a reply's line (RFC 5321 section 4.2.1). Servers join the lines of one reply.
_LINE_HEAD = re.compile(r"(?:^|(?<=\s))([45]\d\d)[- ](?:[45]\.\d{1,3}\.\d{1,3}\s+)?")


class Meaning(StrEnum):
    """What a returned mail says."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    #: The mailbox answered by itself; the mail is in it.
    AUTO_REPLY = "auto-reply"
    #: The recipient called the mail unwanted.
    COMPLAINED = "complained"
    #: No report at all, such as a person's answer. It says nothing about the mail.
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Report:
    """``status`` is an RFC 3463 code (5.0.0 when none was given), ``reason`` one line of the remote's words.

    ``feedback``: what tells the same report from another when it comes again, by mail or as a notice; empty: nothing.
    """

    meaning: Meaning
    status: str
    reason: str
    feedback: str = ""

    @property
    def cause(self) -> Cause:
        """Why, in the sender's terms."""
        return reasons.cause_of(self.status, self.reason)

    @property
    def permanent(self) -> bool:
        """It failed, and sending it again is no use."""
        return self.meaning is Meaning.FAILED and reasons.is_permanent(self.status, self.cause)

    @property
    def suppresses(self) -> bool:
        """It failed because the address is no good."""
        return self.meaning is Meaning.FAILED and reasons.suppresses(self.status, self.reason)


def read(raw: bytes, *, null_sender: bool, recipient: str = "") -> Report:
    """Understand a returned mail about ``recipient``.

    ``null_sender``: it came with the empty envelope sender, as all bounces should. A mail with the null sender that no
    parser knows and that does not call itself an auto-reply counts as a failure: telling a sender too much is better
    than hiding a loss.
    """
    try:
        message = email.message_from_bytes(_bounded(raw))
        found = _read(message, null_sender, recipient)
        return Report(found.meaning, found.status, found.reason, _feedback(message, raw))
    except Exception:  # stdlib and flufl parsers meet hostile input here; which of their errors is no one's business
        return Report(Meaning.FAILED if null_sender else Meaning.UNCLEAR, "5.0.0", "unreadable report")


def _bounded(raw: bytes) -> bytes:
    """The beginning that is read."""
    raw = raw[:READ_MAX_BYTES]
    for ends, most in ((_LINE_END, LINES_MAX), (_BLANK_LINE, BLANK_LINES_MAX)):
        last = next(itertools.islice(ends.finditer(raw), most, None), None)
        if last is not None:
            raw = raw[: last.start()]
    return raw


def _read(message: Message, null_sender: bool, recipient: str) -> Report:
    complaint = structured.complaint(message)
    if complaint is None and prose.says_complaint(message):
        complaint = "abuse"
    if complaint is not None:
        unwanted = complaint not in ("not-spam", "auth-failure")
        return Report(Meaning.COMPLAINED if unwanted else Meaning.UNCLEAR, "2.0.0", _tidy(f"complaint: {complaint}"))
    text = prose.text_of(message)
    groups = structured.status_groups(message) or structured.groups_in_text(text)
    if groups:
        return _from_groups(structured.about(groups, recipient), text)
    receipt = structured.receipt(message)
    if receipt is not None and not re.search(r"reject|refus|failed|quota", f"{receipt} {text}", re.IGNORECASE):
        return Report(Meaning.DELIVERED, "2.0.0", _tidy(receipt))
    return _from_prose(message, text, null_sender)


def _from_groups(groups: list[structured.Group], text: str) -> Report:
    for meaning, actions in (
        (Meaning.FAILED, ("failed",)),
        (Meaning.DELAYED, ("delayed",)),
        (Meaning.DELIVERED, ("delivered", "relayed", "expanded")),
    ):
        for group in groups:
            if group.action in actions:
                reason = group.diagnostic
                if meaning is not Meaning.DELIVERED and not _telling(reason):
                    reason = _joined(reason, prose.excerpt(text))
                return Report(meaning, _status(meaning, group.status, reason), _tidy(reason))
    return Report(Meaning.UNCLEAR, "2.0.0", _tidy(f"unknown action {groups[0].action}"))


def _from_prose(message: Message, text: str, null_sender: bool) -> Report:
    reason = prose.excerpt(text) or prose.subject_of(message)
    server = prose.from_daemon(message)
    if not server:
        if prose.wants_confirmation(message, text):
            return Report(Meaning.FAILED, "4.7.1", _tidy(f"challenge-response: {reason}"))
        automatic = prose.is_automatic_reply(message)
        if automatic and prose.says_rejected(text):
            return Report(Meaning.FAILED, _status(Meaning.FAILED, "", reason), _tidy(reason))
        if automatic and not prose.says_failure(message):
            return Report(Meaning.AUTO_REPLY, "2.0.0", _tidy(prose.subject_of(message) or "automatic reply"))
    temporary, permanent = flufl.bounce.all_failures(prose.alone(message))
    if prose.says_delay(message, text) and not permanent:
        return Report(Meaning.DELAYED, _status(Meaning.DELAYED, "", reason), _tidy(reason))
    if temporary and not permanent:
        return Report(Meaning.DELAYED, _status(Meaning.DELAYED, "", reason), _tidy(reason))
    if not permanent and prose.says_delivered(message, text) and not prose.says_failure(message):
        return Report(Meaning.DELIVERED, "2.0.0", _tidy(reason))
    blamed = prose.says_failure(message) and (server or reasons.said_by_words(reason))
    if permanent or null_sender or blamed:
        return Report(Meaning.FAILED, _status(Meaning.FAILED, "", reason), _tidy(reason))
    return Report(Meaning.UNCLEAR, "2.0.0", _tidy(prose.subject_of(message) or reason))


def _telling(diagnostic: str) -> bool:
    """Whether there are words besides codes."""
    return bool(re.search(r"[^\W\d_]{3}", re.sub(r"\bsmtp\b", "", diagnostic, flags=re.IGNORECASE)))


def _joined(diagnostic: str, excerpt: str) -> str:
    return f"{diagnostic} {excerpt}".strip() if diagnostic not in excerpt else excerpt


def _status(meaning: Meaning, given: str, reason: str) -> str:
    """The most telling code: the one given, or the one in the reply's words when that one is as good as none."""
    stated = _STATUS.search(given)
    classes = {Meaning.FAILED: "54", Meaning.DELAYED: "45", Meaning.DELIVERED: "2"}[meaning]
    generic = stated is None or stated[1].endswith(".0.0") or stated[1][0] not in classes
    said = next((found for found in _STATUS.findall(reason) if found[0] in classes), None)
    if generic and said is not None:
        return str(said)
    if stated is not None and stated[1][0] in classes:
        return stated[1]
    reply = _REPLY.search(reason)
    if meaning is Meaning.FAILED and reply is not None:
        return f"{reply[1]}.0.0"
    return {"5": "5.0.0", "4": "4.0.0", "2": "2.0.0"}[classes[0]]


def _tidy(reason: str) -> str:
    """One line, words decoded, the repeated codes of a reply of several lines taken out."""
    try:
        reason = str(make_header(decode_header(reason))) if "=?" in reason else reason
    except (ValueError, LookupError, MessageError, UnicodeError):
        pass
    reason = " ".join(reason.split())
    first = _LINE_HEAD.search(reason)
    if first is not None:
        rest = _LINE_HEAD.sub(lambda found: "" if found[1] == first[1] else found[0], reason[first.end() :])
        reason = reason[: first.end()] + rest
    return one_line(reason, _REASON_MAX_CHARS) or "no reason given"


def _feedback(message: Message, raw: bytes) -> str:
    """Its Message-ID, or a digest when it has none.

    What Amazon SES mails has the notice's feedback id there, so both ways are known as one.
    """
    given = " ".join(str(message.get("Message-ID", "")).split()).strip("<>")
    local, _, domain = given.partition("@")
    known = local if domain.lower().endswith("amazonses.com") else given
    return one_line(known, _FEEDBACK_MAX_CHARS) or hashlib.sha256(raw[:READ_MAX_BYTES]).hexdigest()
