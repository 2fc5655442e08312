"""Writing a non-delivery report to the sender of a mail (RFC 3464, RFC 6522; header rules of RFC 3834). Pure.

It says who, which subject, when, why and what to do, in the operators' language; the remote server's own words come
last. A site that has an address for notices gets a copy there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage, Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import format_datetime

from cloudside.mail.bounces import reasons
from cloudside.mail.bounces.cause import Cause
from cloudside.mail.message import fields, one_line, readable, split
from cloudside.mail.model import Kind, NewMessage, Original, State, shown_id
from cloudside.messages import text

_REASON_MAX_CHARS = 400
#: Longer lines are encoded (RFC 5322 section 2.1.1: 998).
_LINE_MAX_CHARS = 900


@dataclass(frozen=True, slots=True)
class Voice:
    """In whose name and language we write. ``sender`` is an address that the smarthost lets us send from."""

    host_name: str
    sender: str
    language: str


def wanted(original: Original) -> bool:
    """Whether anybody is to be told: never for our own messages, the null sender, an auto-reply or bulk mail."""
    return original.kind is Kind.MAIL and bool(original.sender) and not original.automatic


def reports(
    original: Original,
    recipient: str,
    state: State,
    *,
    status: str,
    reason: str,
    voice: Voice,
    now: float,
    notify: str | None,
    new_id: Callable[[], int],
    cause: Cause | None = None,
) -> tuple[NewMessage, ...]:
    """What goes out because ``recipient`` will not get the mail: a report to its sender, and a copy to ``notify``, the
    site's address for notices (None: it has none). Empty when nobody is to be told. For the rest see compose.
    """
    if not wanted(original):
        return ()
    addressees = [original.sender]
    if notify and notify.lower() != original.sender.lower():
        addressees.append(notify)
    return tuple(
        compose(
            original,
            recipient,
            state,
            status=status,
            reason=reason,
            voice=voice,
            now=now,
            new_id=new_id(),
            to=addressee,
            cause=cause,
        )
        for addressee in addressees
    )


def compose(
    original: Original,
    recipient: str,
    state: State,
    *,
    status: str,
    reason: str,
    voice: Voice,
    now: float,
    new_id: int,
    to: str | None = None,
    cause: Cause | None = None,
) -> NewMessage:
    """The report that ``recipient`` will not get the mail. ``to``: whom it goes to, None: the sender.

    ``status`` is an RFC 3463 code, ``reason`` the remote server's words; ``cause`` when it is known better than both.
    """
    to = to or original.sender
    at = datetime.fromtimestamp(now, UTC)
    reason = one_line(reason, _REASON_MAX_CHARS)
    if cause is None:
        cause = Cause.EXPIRED if state is State.EXPIRED else reasons.cause_of(status, reason)
    language = voice.language
    params = _params(original, recipient, voice, now) | {
        "at": _shown(now),
        "why": reasons.why(cause, language=language),
        "todo": reasons.what_to_do(cause, language=language),
        "status": status,
        "reason": reason or "-",
    }
    opening = "bounces.dsn-to-sender" if to == original.sender else "bounces.dsn-to-site"
    words = f"{text(opening, params, language=language)}\n\n{text('bounces.dsn-body', params, language=language)}"
    title = text("bounces.dsn-subject", params, language=language)
    report = MIMEMultipart("report", policy=SMTP)
    report.set_param("report-type", "delivery-status")
    for name, value in _headers(title, to, voice, at, new_id).items():
        report[name] = value
    references = _message_id_of(original.head)
    if references:
        report["References"] = references
    report.attach(_text_part(words, "plain"))
    report.attach(_status_part(original, recipient, status, reason, voice, at))
    report.attach(_text_part(original.head.decode("utf-8", errors="replace").replace("\r\n", "\n"), "rfc822-headers"))
    return _ours(Kind.DSN, report.as_bytes(), title, (to,), now, new_id)


def complaints(
    original: Original,
    recipient: str,
    *,
    voice: Voice,
    now: float,
    notify: str | None,
    new_id: Callable[[], int],
) -> tuple[NewMessage, ...]:
    """What goes out because ``recipient`` called the mail unwanted: a letter to the sender and to ``notify``.

    The mail itself has arrived, so this is no RFC 3464 report; but later mail to that recipient will not be sent.
    """
    if not wanted(original):
        return ()
    found = []
    language = voice.language
    params = _params(original, recipient, voice, now)
    title = text("bounces.complaint-subject", params, language=language)
    for to in dict.fromkeys(filter(None, (original.sender, notify))):
        number = new_id()
        letter = EmailMessage(policy=SMTP)
        for name, value in _headers(title, to, voice, datetime.fromtimestamp(now, UTC), number).items():
            letter[name] = value
        letter.set_content(text("bounces.complaint-body", params, language=language))
        once = f"complaint {shown_id(original.id)} {recipient} {to}"
        found.append(_ours(Kind.DSN, letter.as_bytes(), title, (to,), now, number, once=once))
    return tuple(found)


def compose_notice(
    subject: str, body: str, *, staff: tuple[str, ...], voice: Voice, now: float, new_id: int, once: str
) -> NewMessage:
    """A message to the staff in charge."""
    notice = EmailMessage(policy=SMTP)
    headers = _headers(subject, ", ".join(staff), voice, datetime.fromtimestamp(now, UTC), new_id)
    headers["Auto-Submitted"] = "auto-generated"
    for name, value in headers.items():
        notice[name] = value
    notice.set_content(body)
    return _ours(Kind.NOTICE, notice.as_bytes(), subject, staff, now, new_id, once=once)


def _ours(
    kind: Kind,
    content: bytes,
    subject: str,
    recipients: tuple[str, ...],
    now: float,
    new_id: int,
    once: str | None = None,
) -> NewMessage:
    head, body = split(content)
    return NewMessage(
        id=new_id,
        kind=kind,
        origin="",
        source="",
        sender="",
        recipients=recipients,
        subject=subject,
        head=head,
        body=body,
        accepted_at=now,
        automatic=True,
        once=once,
    )


def _params(original: Original, recipient: str, voice: Voice, now: float) -> dict[str, str]:
    return {
        "recipient": recipient,
        "sender": original.sender,
        "site": original.origin,
        "subject": _subject_of(original.head) or "-",
        "accepted": _shown(original.accepted_at),
        "id": shown_id(original.id),
        "host": voice.host_name,
    }


def _shown(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _headers(subject: str, to: str, voice: Voice, at: datetime, new_id: int) -> dict[str, str]:
    return {
        "From": f"Kyoten <{voice.sender}>",
        "To": to,
        "Subject": _unencoded(one_line(subject, 200)),
        "Date": format_datetime(at),
        "Message-ID": f"<{shown_id(new_id)}@{voice.host_name}>",
        "Auto-Submitted": "auto-replied",
    }


def _unencoded(text: str) -> str:
    """Foreign text for a header: what looks like an encoded word (RFC 2047) stays as it is written.

    email.policy would decode it, and for some (``=?unknown-8bit?q?=FF?=``) cannot write what came out.
    """
    return text.replace("=?", "= ?")


def _text_part(words: str, kind: str) -> MIMEText:
    """Readable as it is where it can be: some who read reports have no mail program."""
    plain = words.isascii() and "\r" not in words and max(map(len, words.split("\n"))) <= _LINE_MAX_CHARS
    return MIMEText(words, kind, "us-ascii" if plain else "utf-8", policy=SMTP)


def _status_part(original: Original, recipient: str, status: str, reason: str, voice: Voice, at: datetime) -> MIMEBase:
    about_message: Message[str, str] = Message(policy=SMTP)
    about_message["Reporting-MTA"] = f"dns; {voice.host_name}"
    about_message["Arrival-Date"] = format_datetime(datetime.fromtimestamp(original.accepted_at, UTC))
    about_recipient: Message[str, str] = Message(policy=SMTP)
    about_recipient["Final-Recipient"] = f"rfc822; {recipient}"
    about_recipient["Action"] = "failed"
    about_recipient["Status"] = status
    about_recipient["Diagnostic-Code"] = "smtp; " + _unencoded(reason.encode("ascii", errors="replace").decode("ascii"))
    about_recipient["Last-Attempt-Date"] = format_datetime(at)
    part = MIMEBase("message", "delivery-status", policy=SMTP)
    part.set_payload([about_message, about_recipient])
    return part


def _subject_of(head: bytes) -> str:
    return readable(_value(head, b"subject"))


def _message_id_of(head: bytes) -> str:
    """The mail's own Message-ID when it is harmless, so that a mail program shows the report below the mail."""
    found = _value(head, b"message-id").decode("ascii", errors="replace")
    plain = len(found) <= 200 and found.isprintable() and found.isascii() and " " not in found and "=?" not in found
    return found if plain and found.startswith("<") and found.endswith(">") else ""


def _value(head: bytes, wanted_name: bytes) -> bytes:
    return next((field.partition(b":")[2].strip() for name, field in fields(head) if name == wanted_name), b"")
