"""What must not leave the router stands in no log; what got there all the same is struck out. Pure.

Loggers are never given secrets. This is the second fence: other programs' lines, and a mistake of ours.
"""

import re
from collections.abc import Iterable

STRUCK = "***"

_PATTERNS = (
    # HTTP's header with the device id, whatever else it may be called.
    re.compile(r"(?i)(authorization:?\s*['\"]?\s*\w+\s+)\S+"),
    # AT+CPIN="1234", AT+CPWD="SC","1234","5678"
    re.compile(r"(?i)(\+CPIN=|\+CPWD=|\+CLCK=)\S+"),
    # password=..., "password": "...", passphrase ..., secret: ..., psk, token, pin, puk
    re.compile(r"(?i)(\b(?:pass(?:word|phrase|wd)?|secret|psk|token|pin|puk)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;]+"),
    # pppd's words for a login
    re.compile(r"(?i)(\b(?:user|name|peer)=\S+\s+password=)\S+"),
)
#: 64 hexadecimal digits: a device id or a key. Hashes that we log ourselves are shorter.
_HEX = re.compile(r"\b[0-9a-fA-F]{64}\b")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
#: A short secret, such as a PIN, may be part of anything: it is struck out by the patterns only.
_LITERAL_MIN_CHARS = 6


class Redaction:
    """``secrets``: values that are known to be secret now."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= _LITERAL_MIN_CHARS}, key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, known))) if known else None

    def line(self, text: str) -> str:
        """One line without what must not leave."""
        if self._literal is not None:
            text = self._literal.sub(STRUCK, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{STRUCK}", text)
        if "PRIVATE KEY" in text:
            text = _PEM.sub(STRUCK, text)
        return _HEX.sub(STRUCK, text)

    def text(self, text: str) -> str:
        """Several lines."""
        return "\n".join(map(self.line, _PEM.sub(STRUCK, text).split("\n")))
