"""What Amazon SES says in a notice: bounce, complaint, delivery, delay, reject. Pure; unknown fields are fine.

Source: "Amazon SNS notification contents for Amazon SES" and "Contents of event data" in the SES developer guide. Two
forms exist, with ``notificationType`` and with ``eventType``; what they hold is the same.

SES tells of a transient bounce only when it has stopped trying, so it is a failure, though not one of the address. One
kind is none: a transient general bounce without a delivery status is how SES counts an out-of-office reply.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloudside.errors import InputError
from cloudside.mail.bounces.reading import Meaning, Report
from cloudside.mail.message import one_line

_TEXT_MAX_CHARS = 400
_ID_MAX_CHARS = 200
#: Recipients of one notice that are looked at. We send one mail a recipient, so there is one.
RECIPIENTS_MAX = 50

#: RFC 3463 codes and words for bounce subtypes, for notices that bring no delivery status.
_BY_SUBTYPE: Final[Mapping[str, tuple[str, str]]] = {
    "NoEmail": ("5.1.1", "no such mailbox"),
    "Suppressed": ("5.1.1", "Amazon SES suppresses mail to this address, which bounced before"),
    "OnAccountSuppressionList": ("5.1.1", "the address is on the account's suppression list at Amazon SES"),
    "UnsubscribedRecipient": ("5.7.1", "the recipient has unsubscribed: mail to it is suppressed at Amazon SES"),
    "MailboxFull": ("4.2.2", "mailbox full"),
    "MessageTooLarge": ("5.3.4", "message too large"),
    "ContentRejected": ("5.7.1", "message content rejected"),
    "AttachmentRejected": ("5.7.1", "attachment rejected"),
    "CustomTimeoutExceeded": ("4.4.7", "delivery time expired"),
}
#: What is known of the whole bounce when the subtype is a general one.
_BY_TYPE: Final[Mapping[str, tuple[str, str]]] = {
    "Permanent": ("5.1.1", "the recipient's provider says that mail to this address will never arrive"),
    "Transient": ("4.0.0", "the recipient's provider did not take the mail"),
    "Undetermined": ("4.0.0", "the recipient's provider did not take the mail and did not say why"),
}
_DELAYED_BY = {"MailboxFull": "4.2.2", "SpamDetected": "4.7.1", "RecipientServerError": "4.3.0", "IPFailure": "4.7.1"}


@dataclass(frozen=True, slots=True)
class Told:
    """About one recipient. ``address`` in lower case; empty: not named."""

    address: str
    report: Report


@dataclass(frozen=True, slots=True)
class Notice:
    """About one mail. ``remote_id``: SES's id of it; ``source``: its MAIL FROM, our return address.

    ``sent_at`` in seconds since the epoch, 0: unknown. ``told`` is empty when the notice says nothing about the mail.
    """

    kind: str
    remote_id: str
    source: str
    sent_at: float
    told: tuple[Told, ...]


def read(message: str) -> Notice | None:
    """None: no notice about a mail, such as the words with which SES tries a topic. Raises InputError: a broken one."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    kind = _text(found, "notificationType") or _text(found, "eventType")
    mail = _object(found, "mail")
    if not kind:
        return None
    remote_id = _text(mail, "messageId")
    if not remote_id:
        raise InputError("bounces.notice-malformed", reason="no mail.messageId")
    reader = _READERS.get(kind)
    told = reader(found) if reader is not None else []
    return Notice(kind, remote_id, _text(mail, "source"), _time(_text(mail, "timestamp")), tuple(told))


def _bounce(found: Mapping[str, object]) -> list[Told]:
    bounce = _object(found, "bounce")
    kind, subtype, feedback = _text(bounce, "bounceType"), _text(bounce, "bounceSubType"), _feedback(bounce)
    told = []
    for recipient in _recipients(bounce, "bouncedRecipients"):
        action, status = _text(recipient, "action").lower(), _text(recipient, "status")
        diagnostic = _untyped(_text(recipient, "diagnosticCode"))
        known_status, known_words = _BY_SUBTYPE.get(subtype) or _BY_TYPE.get(kind, _BY_TYPE["Undetermined"])
        meaning = Meaning.FAILED
        if action == "delayed":
            meaning = Meaning.DELAYED
        elif kind == "Transient" and subtype in ("General", "") and not (action or status or diagnostic):
            meaning = Meaning.AUTO_REPLY
        usable = status[:2] in ("4.", "5.") and not status.endswith(".0.0")
        if kind == "Transient":
            # SES says more than the server's code: a full mailbox with 5.2.2 will have room again.
            usable = usable and not (subtype == "MailboxFull" and status.startswith("5"))
        words = diagnostic or known_words
        if subtype in ("Suppressed", "OnAccountSuppressionList", "UnsubscribedRecipient"):
            words = known_words if "suppress" not in words.lower() else words
        report = Report(meaning, status if usable else known_status, one_line(words, _TEXT_MAX_CHARS), feedback)
        told.append(Told(_address(recipient), report))
    return told


def _complaint(found: Mapping[str, object]) -> list[Told]:
    complaint = _object(found, "complaint")
    kind = _text(complaint, "complaintFeedbackType") or _text(complaint, "complaintSubType") or "abuse"
    meaning = Meaning.UNCLEAR if kind == "not-spam" else Meaning.COMPLAINED
    report = Report(meaning, "2.0.0", one_line(f"complaint: {kind}", _TEXT_MAX_CHARS), _feedback(complaint))
    return [Told(_address(recipient), report) for recipient in _recipients(complaint, "complainedRecipients")]


def _delivery(found: Mapping[str, object]) -> list[Told]:
    delivery = _object(found, "delivery")
    words = _text(delivery, "smtpResponse") or "delivered to the recipient's provider"
    report = Report(Meaning.DELIVERED, "2.0.0", one_line(words, _TEXT_MAX_CHARS), "delivery")
    return [Told("", report)]


def _delay(found: Mapping[str, object]) -> list[Told]:
    delay = _object(found, "deliveryDelay")
    kind = _text(delay, "delayType")
    told = []
    for recipient in _recipients(delay, "delayedRecipients"):
        words = _untyped(_text(recipient, "diagnosticCode")) or f"delayed: {kind}"
        status = _text(recipient, "status") or _DELAYED_BY.get(kind, "4.0.0")
        report = Report(Meaning.DELAYED, status, one_line(words, _TEXT_MAX_CHARS), _text(delay, "timestamp"))
        told.append(Told(_address(recipient), report))
    return told


def _reject(found: Mapping[str, object]) -> list[Told]:
    reason = _text(_object(found, "reject"), "reason") or "Bad content"
    words = f"Amazon SES found a virus or other bad content: {reason}"
    return [Told("", Report(Meaning.FAILED, "5.7.1", one_line(words, _TEXT_MAX_CHARS), "reject"))]


_READERS = {
    "Bounce": _bounce,
    "Complaint": _complaint,
    "Delivery": _delivery,
    "DeliveryDelay": _delay,
    "Reject": _reject,
}


def _object(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _recipients(found: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    value = found.get(name)
    listed: list[Mapping[str, object]] = []
    if isinstance(value, list):
        listed = [one for one in value[:RECIPIENTS_MAX] if isinstance(one, dict)]
    return listed or [{}]


def _address(recipient: Mapping[str, object]) -> str:
    """``Name <a@b.test>`` as ``a@b.test``."""
    return _text(recipient, "emailAddress").rpartition("<")[2].strip("<> ").lower()


def _feedback(found: Mapping[str, object]) -> str:
    return one_line(_text(found, "feedbackId"), _ID_MAX_CHARS)


def _untyped(diagnostic: str) -> str:
    kind, semicolon, rest = diagnostic.partition(";")
    return rest.strip() if semicolon and kind.strip().lower() in ("smtp", "x-unix", "dns", "x-notes") else diagnostic


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
