"""Reports that servers write for people: what kind of letter is it, and which line says why? Pure; any text is taken.

flufl.bounce knows some forms; the rest is told by what all have in common: who writes (MAILER-DAEMON), a subject, a
line with an SMTP reply. Texts are in English and Japanese; others count by sender and subject.
"""

import html
import re
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message

from cloudside.mail.bounces import structured
from cloudside.mail.bounces.reasons import said_by_words

#: Octets of one text part that are decoded, and characters of all together that are looked at. Servers come to the
#: point early. Patterns with a few free words between them cost their product on text that was made to be slow.
TEXT_MAX_BYTES = 32 * 1024
TEXT_MAX_CHARS = 12_000
_LINES_MAX = 300
_LINE_MAX_CHARS = 1000
_FIELD_MAX_CHARS = 500
_EXCERPT_LINES_MAX = 4
_EXCERPT_MAX_CHARS = 2000


def _any(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE | re.MULTILINE)


_DAEMON = _any(
    r"mailer-daemon",
    r"mail delivery (?:sub)?system",
    r"postmaster",
    r"mail administrator",
    r"system administrator",
    r"mailerdaemon",
    r"mail-daemon",
    r"mail delivery service",
    r"mailer daemon",
    r"mail router",
    r"delivery.?subsystem",
    r"internet mail delivery",
)
_FAILURE_SUBJECT = _any(
    r"undeliver",
    r"non.?deliver",
    r"returned (?:mail|to sender|message)",
    r"failure notice",
    r"delivery (?:failure|failed|error|problem)",
    r"(?:mail|message|delivery)[a-z ]{0,12} fail",
    r"mail system error",
    r"could not be delivered",
    r"not delivered",
    r"rejected",
    r"delivery (?:status )?notification ?\(?:? ?(?:failure|error)",
    r"delivery notification: delivery has failed",
    r"notice: mail delivery status",
    r"returned mail",
    r"mail error",
    r"bounce",
    r"エラー通知",
    r"配信(?:不能|できません|エラー|失敗)",
    r"送信(?:エラー|できません|失敗)",
    r"不達",
    r"お届けできません",
    r"unzustellbar",
    r"non remis",
    r"devuelto",
)
_DELAY = _any(
    r"delivery (?:status notification ?\(delay\)|delayed)",
    r"warning: (?:could not send|message .{0,40} delayed|mail)",
    r"(?:has been|is) delayed",
    r"temporary failure report",
    r"not (?:yet )?been delivered (?:yet|after)",
    r"has not yet been delivered",
    r"not yet delivered",
    r"(?:will|we'll|continue to) (?:be |keep )?(?:re-?tr(?:y|ied|ying)|trying)",
    r"delivery attempts will continue",
    r"do(?:es)? not need to resend",
    r"no action is required",
    r"delivery (?:is|temporarily) (?:delayed|suspended)",
    r"still (?:being )?(?:retried|trying)",
    r"delivery incomplete",
    r"再送を?(?:試み|続け|行い)",
    r"遅延",
    r"配信が遅れ",
)
_GIVEN_UP = _any(
    r"given up",
    r"giving up",
    r"permanent(?:ly)? (?:error|fail)",
    r"failed permanently",
    r"could not be delivered (?:for|within)",
    r"will not be re-?tried",
    r"won't be re-?tried",
    r"no longer (?:be )?(?:retr|tr[iy])",
)
_DELIVERED = _any(
    r"success(?:ful(?:ly)?)? (?:deliver|mail delivery|relayed)",
    r"(?:was|been|were) (?:successfully )?(?:delivered to|relayed)",
    r"delivery status notification ?\((?:success|relay|expanded)\)",
    r"^relayed:",
    r"配信(?:しました|されました|完了)",
)
_AWAY_SUBJECT = _any(
    r"^[ \t]*auto(?:matic|mated)?[ -]?(?:reply|response|re)\b",
    r"^[ \t]*(?:auto|away|vacation|absen[ct]e?|abwesen\w*|autosvar|automatische antwort)\b",
    r"^[ \t]*(?:r[eé]ponse automatique|respuesta autom|risposta autom)",
    r"^[ \t]*(?:re: *)?\[?(?:自動(?:応答|返信|回答)|不在|休暇)",
    r"^[ \t]*(?:on (?:vacation|leave|holiday)|i(?:'m| am) (?:away|out))\b",
    r"^[ \t]*(?:ticket received|we have received your)",
    r"out of (?:the )?office",
    r"(?:自動(?:応答|返信)|不在(?:通知|です|のお知らせ))",
)
_CHALLENGE = _any(
    r"challenge.?response",
    r"your (?:message|e?-?mail)[^.]{0,80}(?:held|waiting|requires|needs)[^.]{0,60}(?:confirm|verif|approv|authori)",
    r"confirm(?:ation)? (?:that )?(?:you|your message|request)",
    r"spamarrest",
    r"boxbe",
    r"\bTMDA\b",
    r"please (?:click|reply|confirm)[^.]{0,80}(?:so that|in order)[^.]{0,60}deliver",
    r"to release your (?:message|mail)",
    r"(?:メール|メッセージ)[^。]{0,30}(?:保留|認証)[^。]{0,60}(?:確認|クリック|承認)",
)
_RETURNED_MAIL = _any(
    r"^[ \t>*=_#+-]{2,}.{0,12}(?:below (?:this line )?is a copy|original message|this is a copy of)",
    r"^[ \t>*=_#+-]{2,}.{0,12}(?:returned (?:message|mail)|message (?:header|text)s?\b|undelivered message)",
    r"^[ \t>*=_#+-]{2,}.{0,12}(?:the header of the original|unsent message|body of (?:the )?message)",
    r"^[ \t>*=_#+-]{2,}.{0,12}(?:元のメール|送信メール|オリジナル)",
    r"^[ \t]*(?:below is a copy of the original|original message (?:headers?|follows)|included is a copy)",
    r"^[ \t]*(?:the (?:full|first \d+ lines of the) original)",
    r"^[ \t]*(?:returned|original) message (?:headers?|attached|text)[ :]",
    r"^(?:received: from|return-path: <)",
)
_POLITE = _any(
    r"(?:this|message) (?:is|was) (?:an? )?(?:created |generated |sent )?automatic",
    r"^this is the .{0,60}(?:program|system|agent) at",
    r"^hi[.!]",
    r"sorry to (?:have to )?inform",
    r"please do not reply",
    r"for (?:further )?assistance",
    r"delivery status notification",
    r"a message that you sent could not be delivered",
    r"tried to deliver your message, but it was rejected",
)
_REJECTED = _any(
    r"(?:message|mail|post|submission)\s[^.]{0,60}(?:has been|was|is) (?:automatically\s)?rejected",
    r"not allowed to (?:post|send|write)",
    r"automatically\s+rejected",
    r"自動的に(?:拒否|破棄|削除)",
)
_BLOCKS = ("p", "br", "div", "tr", "td", "li", "h1", "h2", "h3", "pre")
_COMPLAINT = re.compile(r"complaint about (?:a )?message from|spam complaint", re.IGNORECASE)
_REPLY_LINE = re.compile(
    r"(?:^|[\s:#(<\"'「=])([45]\d\d(?:[ -]#?[45]\.\d{1,3}\.\d{1,3}\b|[ -](?=\S))|#?[45]\.\d{1,3}\.\d{1,3}\b)"
)


def subject_of(message: Message) -> str:
    """The subject, decoded."""
    raw = _header(message, "Subject")
    try:
        return str(make_header(decode_header(raw)))
    except (ValueError, LookupError, MessageError, UnicodeError):
        return raw


def text_of(message: Message) -> str:
    """The words of the report: its text parts, without the mail that it returns; HTML only when there is no other."""
    text = _whole_text(message)
    end = _RETURNED_MAIL.search(text)
    # A report that begins with such a line says why further down.
    return text[: end.start()] if end and text[: end.start()].strip() else text


def alone(message: Message) -> Message:
    """The report as one plain text without the mail that it returns, for parsers that look into everything."""
    found = Message()
    for name in ("From", "Subject", "X-Failed-Recipients", "Content-Description"):
        if name in message:
            found[name] = _header(message, name)
    lines = _whole_text(message).split("\n", _LINES_MAX)[:_LINES_MAX]
    found.set_payload("\n".join(line[:_LINE_MAX_CHARS] for line in lines))
    return found


def from_daemon(message: Message) -> bool:
    """Whether a mail server writes, and no person."""
    return bool(message.get("X-Failed-Recipients")) or bool(
        _DAEMON.search(" ".join(_header(message, name) for name in ("From", "Sender")))
    )


def says_failure(message: Message) -> bool:
    """Whether the subject says that a mail came back."""
    return bool(_FAILURE_SUBJECT.search(subject_of(message)))


def says_complaint(message: Message) -> bool:
    """Whether a provider passes a complaint on in its own form."""
    return bool(_COMPLAINT.search(subject_of(message)))


def says_delay(message: Message, text: str) -> bool:
    """Whether it only warns: the server goes on trying."""
    words = f"{subject_of(message)}\n{text}"
    return bool(_DELAY.search(words)) and not _GIVEN_UP.search(words)


def says_delivered(message: Message, text: str) -> bool:
    """Whether it confirms that the mail arrived."""
    return bool(_DELIVERED.search(f"{subject_of(message)}\n{text}"))


def is_automatic_reply(message: Message) -> bool:
    """Whether a mailbox answers by itself: away, on holiday, ticket opened (RFC 3834, and what came before it)."""
    submitted = str(message.get("Auto-Submitted", "no")).strip().lower()
    return (
        submitted.startswith(("auto-replied", "auto-notified", "auto-generated"))
        or any(
            name in message
            for name in ("X-Autoreply", "X-Autorespond", "X-Auto-Reply", "X-Autogenerated", "X-Apple-Action")
        )
        or str(message.get("X-Auto-Response-Suppress", "")).strip().lower() == "all"
        or str(message.get("Precedence", "")).strip().lower() == "auto_reply"
        or bool(_AWAY_SUBJECT.search(subject_of(message)))
    )


def says_rejected(text: str) -> bool:
    """Whether a list or a filter says in its automatic answer that it threw the mail away."""
    return bool(_REJECTED.search(text))


def wants_confirmation(message: Message, text: str) -> bool:
    """Whether the mail is held back until its sender does something, which no controller ever will."""
    return bool(_CHALLENGE.search(f"{subject_of(message)}\n{text}"))


def excerpt(text: str) -> str:
    """The lines that say why: those with an SMTP reply, or with known words, or else the first ones."""
    lines = [
        line[:_LINE_MAX_CHARS]
        for raw in text.split("\n", _LINES_MAX)[:_LINES_MAX]
        if (line := " ".join(raw.split()).strip("|*>")) and line.strip("-=_ ")
    ]
    for number, line in enumerate(lines):
        reply = _REPLY_LINE.search(line)
        if reply is not None:  # its words may stand on the next line
            begin = reply.start(1) if reply[1][0] in "45" and reply[1][1].isdigit() else 0
            return " ".join([line[begin:], *lines[number + 1 : number + 2]])[:_EXCERPT_MAX_CHARS]
    telling = [line for line in lines if not _POLITE.search(line)]
    for number, line in enumerate(telling):
        if said_by_words(line):
            return " ".join(telling[number : number + 2])[:_EXCERPT_MAX_CHARS]
    return " ".join((telling or lines)[:_EXCERPT_LINES_MAX])[:_EXCERPT_MAX_CHARS]


def _header(message: Message, name: str) -> str:
    """The first field of that name; octets that are not ASCII are taken for what they most likely are."""
    for found, value in message.raw_items():
        if found.lower() == name.lower():
            raw = str(value)[: 4 * _FIELD_MAX_CHARS].encode("utf-8", errors="surrogateescape")
            text = str(value) if raw.isascii() else _guessed(raw, "")
            return " ".join(text[: 2 * _FIELD_MAX_CHARS].split())[:_FIELD_MAX_CHARS]
    return ""


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    return _guessed(payload[:TEXT_MAX_BYTES], (part.get_content_charset() or "").lower())


def _whole_text(message: Message) -> str:
    plain: list[str] = []
    marked_up: list[str] = []
    size = 0
    for part in structured.parts(message):
        if part.is_multipart() or size > TEXT_MAX_BYTES:
            continue
        if part.get_content_maintype() == "text" or (part is message and not plain):
            text = _decoded(part)
            size += len(text)
            (marked_up if part.get_content_type() == "text/html" else plain).append(text)
    text = "\n".join(plain) if "".join(plain).strip() else "\n".join(_unmarked(one) for one in marked_up)
    return text.replace("\r\n", "\n").replace("\r", "\n")[:TEXT_MAX_CHARS]


def _guessed(raw: bytes, declared: str) -> str:
    """Text in the charset that it says it has, or in the one that it has."""
    if b"\x1b$" in raw and raw.isascii():
        return raw.decode("iso-2022-jp-ext", errors="replace")
    for charset in (declared, "utf-8", "cp932", "euc-jp"):
        # Octets above 127 are not ASCII, whatever it says, and anything at all is Latin-1.
        if charset and charset not in ("us-ascii", "ascii", "iso-8859-1", "latin-1"):
            try:
                return raw.decode(charset)
            except (LookupError, UnicodeError):
                continue
    return raw.decode("latin-1")


def _unmarked(marked_up: str) -> str:
    """The words of HTML. html.parser takes quadratic time on broken tags; this goes through once."""
    words = []
    unseen = False
    for number, piece in enumerate(marked_up.split("<")):
        tag, closed, text = piece.partition(">") if number else ("", ">", piece)
        name = re.match(r"/?[a-z0-9]*", tag[:12].lower())
        if name is not None and name[0] in ("style", "script", "/style", "/script"):
            unseen = not name[0].startswith("/")
        if not unseen:
            words.append("\n" if name is not None and name[0].strip("/") in _BLOCKS else "")
            words.append(text if closed else "")
    return html.unescape("".join(words))
