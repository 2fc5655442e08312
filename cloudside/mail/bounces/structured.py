"""Reports that programs write for programs: delivery status (RFC 3464, 6533), complaints (RFC 5965), receipts (8098).

What arrives is bent in many ways: the status part encoded in base64, fields without a type, an Action in capitals or
with a comment, the fields in a plain text part. Pure; any text is taken.
"""

import base64
import binascii
import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

_STATUS_TYPES = ("message/delivery-status", "message/global-delivery-status")
_FIELDS_IN_TEXT = re.compile(r"^(?:Final|Original)-Recipient:", re.IGNORECASE | re.MULTILINE)
_ACTION_IN_TEXT = re.compile(r"^(?:Action|Status):", re.IGNORECASE | re.MULTILINE)
#: Groups of one report that are looked at, and characters of one field.
GROUPS_MAX = 200
_FIELD_MAX_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Group:
    """What a report says of one recipient. ``action`` in lower case: failed, delayed, delivered, relayed, expanded.

    ``recipients``: the addresses that it names, in lower case; ``status`` and ``diagnostic`` may be empty.
    """

    action: str
    status: str
    diagnostic: str
    recipients: tuple[str, ...]


def parts(message: Message) -> Iterator[Message]:
    """The parts of a report, without looking into the returned mail: that may hold other reports."""
    kind = message.get_content_type()
    if kind in ("message/rfc822", "text/rfc822-headers", "message/global"):
        return
    yield message
    payload = message.get_payload()
    if kind not in _STATUS_TYPES and isinstance(payload, list):
        for part in payload:
            if isinstance(part, Message):
                yield from parts(part)


def status_groups(message: Message) -> list[Group]:
    """The groups about recipients of the first delivery status part that has any; empty: it is no such report."""
    for part in parts(message):
        if part.get_content_type() in _STATUS_TYPES:
            groups = _groups(_blocks(part))
            if groups:
                return groups
    return []


def groups_in_text(text: str) -> list[Group]:
    """Groups that stand in a plain text, because a server or a list on the way took the report apart."""
    if not (_FIELDS_IN_TEXT.search(text) and _ACTION_IN_TEXT.search(text)):
        return []
    return _groups(_split(text))


def about(groups: list[Group], recipient: str) -> list[Group]:
    """The groups that name the recipient, or all when none does: forwarding has changed the name."""
    wanted = recipient.lower()
    return [group for group in groups if wanted and wanted in group.recipients] or groups


def complaint(message: Message) -> str | None:
    """The Feedback-Type of a complaint in lower case (abuse, fraud, virus, not-spam ...); None: it is none."""
    for part in parts(message):
        if part.get_content_type() == "message/feedback-report":
            return _field(_as_fields(part), "Feedback-Type") or "abuse"
    return None


def receipt(message: Message) -> str | None:
    """The Disposition of a receipt in lower case, such as ``manual-action/mdn-sent-manually; displayed``."""
    for part in parts(message):
        if part.get_content_type() in ("message/disposition-notification", "message/global-disposition-notification"):
            return _field(_as_fields(part), "Disposition") or "unknown"
    return None


def _blocks(part: Message) -> list[Message]:
    payload = part.get_payload()
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding in ("base64", "quoted-printable") or not isinstance(payload, list) or len(payload) == 1:
        # The parser takes the part for lines as they are, or (for other message types) for one mail.
        return _split(_text_of(part, encoding))
    return [block for block in payload if isinstance(block, Message)]


def _split(text: str) -> list[Message]:
    return [_fields(block) for block in re.split(r"\n[ \t]*\n", text, maxsplit=GROUPS_MAX)[:GROUPS_MAX]]


def _text_of(part: Message, encoding: str) -> str:
    payload = part.get_payload()
    text = "\n".join(_written(one) for one in payload if isinstance(one, Message)) if isinstance(payload, list) else ""
    if isinstance(payload, str):
        text = payload
    raw = text.encode("utf-8", errors="replace")
    try:
        if encoding == "base64":
            raw = base64.b64decode(re.sub(rb"[^A-Za-z0-9+/=]", b"", raw) + b"==")
        elif encoding == "quoted-printable":
            raw = quopri.decodestring(raw)
    except (binascii.Error, ValueError):
        pass
    return raw.decode("utf-8", errors="replace").replace("\r\n", "\n").strip("\n")


def _written(block: Message) -> str:
    """A block as it stood: the library's own writing would fold lines, and fails on some."""
    payload = block.get_payload()
    lines = [f"{name}: {value}" for name, value in block.items()]
    if isinstance(payload, str) and payload:
        lines += ["", payload] if lines else [payload]
    return "\n".join(lines)


def _fields(block: str) -> Message:
    return HeaderParser().parsestr(block.strip("\n") + "\n\n")


def _as_fields(part: Message) -> Message:
    return _fields(_text_of(part, str(part.get("Content-Transfer-Encoding", "")).strip().lower()))


def _field(block: Message, name: str) -> str:
    return " ".join(str(block.get(name, ""))[:_FIELD_MAX_CHARS].split()).lower()


def _groups(blocks: list[Message]) -> list[Group]:
    found = []
    for block in blocks[:GROUPS_MAX]:
        status = str(block.get("Status", ""))[:_FIELD_MAX_CHARS].strip()
        named = tuple(
            address
            for name in ("Original-Recipient", "Final-Recipient", "X-Actual-Recipient")
            for value in block.get_all(name, [])[:2]
            if (address := _address(str(value)[:_FIELD_MAX_CHARS]))
        )
        action = re.match(r"[a-z]+", str(block.get("Action", "")).strip().lower())
        if action is None and not (named and status):
            continue  # the group about the message, or no group at all
        diagnostic = " ".join(str(block.get("Diagnostic-Code", ""))[:_FIELD_MAX_CHARS].split())
        found.append(Group(_action(action[0] if action else "", status), status, _untyped(diagnostic), named))
    return found


def _action(word: str, status: str) -> str:
    if word in ("fail", "failure", "error", "expired", "undeliverable"):  # RFC 3464 knows "failed"
        return "failed"
    if word in ("deliverable", "success", "delivery"):
        return "delivered"
    if word:
        return word
    return {"4": "delayed", "2": "delivered"}.get(status[:1], "failed")


def _address(value: str) -> str:
    """``rfc822; <a@b.test>`` as ``a@b.test``."""
    return value.rpartition(";")[2].strip().strip("<>").lower()


def _untyped(diagnostic: str) -> str:
    """Without its type: ``smtp; 550 ...``. Some servers leave the type away, and words may hold a semicolon."""
    kind, semicolon, rest = diagnostic.partition(";")
    return rest.strip() if semicolon and re.fullmatch(r"[A-Za-z0-9_.-]{1,20}", kind.strip()) else diagnostic
