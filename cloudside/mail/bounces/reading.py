"""Reading what comes back to a signed return address: a failure, a delay, an auto-reply? Any bytes are accepted.

Which message and recipient it is about is known from the address, never guessed from the text (RFC 3464 reports name
recipients that forwarding has changed). The text only tells what happened and why.
"""

import email
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from enum import StrEnum

import flufl.bounce

from cloudside.mail.message import one_line

#: Reports put the facts first and the returned mail last; more than this is not read.
READ_MAX_BYTES = 256 * 1024
_REASON_MAX_CHARS = 400
_EXCERPT_MAX_CHARS = 300
_STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")


class Meaning(StrEnum):
    """What a returned mail says."""

    FAILED = "failed"
    DELAYED = "delayed"
    #: Delivered or relayed after all, or an answer by a machine: nothing failed.
    HARMLESS = "harmless"


@dataclass(frozen=True, slots=True)
class Report:
    """``status`` is an RFC 3463 code (5.0.0 when none was given), ``reason`` one line for people."""

    meaning: Meaning
    status: str
    reason: str


def read(raw: bytes, *, null_sender: bool) -> Report:
    """Understand a returned mail. ``null_sender``: it came with the empty envelope sender, as all bounces should.

    A mail with the null sender that no parser knows and that does not call itself an auto-reply counts as a failure:
    telling a sender too much is better than hiding a loss.
    """
    try:
        return _read(raw[:READ_MAX_BYTES], null_sender)
    except Exception:  # stdlib and flufl parsers meet hostile input here; which of their errors is no one's business
        return Report(Meaning.FAILED if null_sender else Meaning.HARMLESS, "5.0.0", "unreadable report")


def _read(raw: bytes, null_sender: bool) -> Report:
    message = email.message_from_bytes(raw)
    groups = list(_recipient_groups(message))
    if groups:
        return _from_groups(groups)
    if _automatic_reply(message):
        return Report(Meaning.HARMLESS, "2.0.0", "automatic reply")
    temporary, permanent = flufl.bounce.all_failures(message)
    excerpt = one_line(_first_text(message), _EXCERPT_MAX_CHARS) or "no reason given"
    if permanent:
        return Report(Meaning.FAILED, _status_in(excerpt), excerpt)
    if temporary:
        return Report(Meaning.DELAYED, "4.0.0", excerpt)
    return Report(Meaning.FAILED if null_sender else Meaning.HARMLESS, _status_in(excerpt), excerpt)


def _recipient_groups(message: Message) -> Iterator[Message]:
    """The per-recipient field groups of an RFC 3464 report; forwarded reports inside it are not looked into."""
    for part in message.walk():
        if part.get_content_type() == "message/delivery-status":
            payload = part.get_payload()
            if isinstance(payload, list):
                yield from (group for group in payload if isinstance(group, Message) and group.get("Action"))
            return


def _from_groups(groups: list[Message]) -> Report:
    for meaning, actions in (
        (Meaning.FAILED, ("failed",)),
        (Meaning.DELAYED, ("delayed",)),
        (Meaning.HARMLESS, ("delivered", "relayed", "expanded")),
    ):
        for group in groups:
            if str(group["Action"]).strip().lower() in actions:
                status = _STATUS.search(str(group.get("Status", "")))
                diagnostic = str(group.get("Diagnostic-Code", "")).partition(";")[2]
                fallback = "5.0.0" if meaning is Meaning.FAILED else "4.0.0"
                reason = one_line(" ".join(diagnostic.split()), _REASON_MAX_CHARS)
                return Report(meaning, status[1] if status else fallback, reason or "no reason given")
    return Report(Meaning.HARMLESS, "2.0.0", "unknown action")


def _automatic_reply(message: Message) -> bool:
    submitted = str(message.get("Auto-Submitted", "")).lower()
    # Reports often carry auto-replied too (RFC 3834 allows it), but they are multipart/report.
    if message.get_content_type() == "multipart/report":
        return False
    subject = str(message.get("Subject", "")).lower()
    return (
        (submitted.startswith("auto-replied") and "undeliver" not in subject)
        or "X-Autoreply" in message
        or str(message.get("X-Auto-Response-Suppress", "")).lower() == "all"
        or str(message.get("Precedence", "")).lower() == "auto_reply"
    )


def _first_text(message: Message) -> str:
    for part in message.walk():
        if part.get_content_maintype() == "text":
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                return " ".join(payload[:4000].decode("utf-8", errors="replace").split())
    return ""


def _status_in(excerpt: str) -> str:
    found = _STATUS.search(excerpt)
    return found[1] if found and found[1].startswith("5") else "5.0.0"
