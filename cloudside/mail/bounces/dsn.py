"""Writing a non-delivery report to the sender of a mail (RFC 3464, RFC 6522; header rules of RFC 3834). Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage, Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import format_datetime

from cloudside.mail.message import fields, one_line, readable
from cloudside.mail.model import Kind, NewMessage, Original, State, shown_id
from cloudside.messages import text

_REASON_MAX_CHARS = 400


@dataclass(frozen=True, slots=True)
class Voice:
    """In whose name and language we write. ``sender`` is an address that the smarthost lets us send from."""

    host_name: str
    sender: str
    language: str


def wanted(original: Original) -> bool:
    """Whether anybody is to be told: never for our own messages, the null sender, an auto-reply or bulk mail."""
    return original.kind is Kind.MAIL and bool(original.sender) and not original.automatic


def compose(
    original: Original, recipient: str, state: State, *, status: str, reason: str, voice: Voice, now: float, new_id: int
) -> NewMessage:
    """The report that ``recipient`` will not get the mail.

    ``status`` is an RFC 3463 code, ``reason`` the remote server's words.
    """
    at = datetime.fromtimestamp(now, UTC)
    reason = one_line(reason, _REASON_MAX_CHARS)
    subject = _subject_of(original.head)
    params = {
        "recipient": recipient,
        "reason": reason,
        "status": status,
        "subject": subject,
        "accepted": format_datetime(datetime.fromtimestamp(original.accepted_at, UTC)),
        "id": shown_id(original.id),
        "host": voice.host_name,
    }
    key = "mail.dsn-expired" if state is State.EXPIRED else "mail.dsn-bounced"
    title = text("mail.dsn-subject", params, language=voice.language)
    report = MIMEMultipart("report", policy=SMTP)
    report.set_param("report-type", "delivery-status")
    for name, value in _headers(title, original.sender, voice, at, new_id).items():
        report[name] = value
    report.attach(MIMEText(text(key, params, language=voice.language), "plain", "utf-8", policy=SMTP))
    report.attach(_status_part(original, recipient, status, reason, voice, at))
    report.attach(
        MIMEText(
            original.head.decode("utf-8", errors="replace").replace("\r\n", "\n"),
            "rfc822-headers",
            "utf-8",
            policy=SMTP,
        )
    )
    return NewMessage(
        id=new_id,
        kind=Kind.DSN,
        origin="",
        source="",
        sender="",
        recipients=(original.sender,),
        subject=title,
        content=report.as_bytes(),
        accepted_at=now,
        automatic=True,
    )


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
    return NewMessage(
        id=new_id,
        kind=Kind.NOTICE,
        origin="",
        source="",
        sender="",
        recipients=staff,
        subject=subject,
        content=notice.as_bytes(),
        accepted_at=now,
        automatic=True,
        once=once,
    )


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
    for name, field in fields(head):
        if name == b"subject":
            return readable(field.partition(b":")[2].strip())
    return ""
