"""What a building controller does with mail: hand it to the SMTP server it was given, and look at the answer."""

import json
import smtplib
import sys
import time
from dataclasses import dataclass

from lab.network import Host

#: Old controllers wait long; a lab does not.
TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's last word: 250 when it took the mail. ``took_ms``: from connecting to that word."""

    code: int
    text: str
    took_ms: float


def send_mail(
    host: Host, *, server: str, sender: str, recipients: list[str], subject: str, count: int = 1
) -> list[Answer]:
    """Send ``count`` mails from ``host`` over plain SMTP on port 25, one connection each; the answers in order."""
    order = {"server": server, "sender": sender, "recipients": recipients, "subject": subject, "count": count}
    ended = host.run([sys.executable, "-m", "lab.controller"], stdin=json.dumps(order), timeout_s=TIMEOUT_S * count)
    return [Answer(**answer) for answer in json.loads(ended.stdout)]


def _send(server: str, sender: str, recipients: list[str], subject: str) -> Answer:
    body = f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\nPump 3: pressure low.\r\n"
    start = time.monotonic()
    try:
        with smtplib.SMTP(server, 25, timeout=TIMEOUT_S) as connection:
            connection.ehlo_or_helo_if_needed()
            code, text = connection.mail(sender)
            for recipient in recipients:
                if code == 250:
                    code, text = connection.rcpt(recipient)
            if code == 250:
                code, text = connection.data(body)
    except (OSError, smtplib.SMTPException) as error:
        code, text = 0, str(error).encode()
    return Answer(code, text.decode(errors="replace"), (time.monotonic() - start) * 1000)


def _main() -> None:
    order = json.load(sys.stdin)
    count = order.pop("count")
    answers = [_send(**order) for _ in range(count)]
    json.dump([{"code": a.code, "text": a.text, "took_ms": a.took_ms} for a in answers], sys.stdout)


if __name__ == "__main__":
    _main()
