"""Amazon SES's API v2, as far as we need it: GetAccount, for the account's rate and quota.

One request in minutes, so each opens its own connection. Foreign JSON ends here.
"""

import json
import math
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.delivery.quota import Reading
from cloudside.mail.delivery.sigv4 import AccessKey, signed_headers
from cloudside.mail.delivery.smarthost import read_credentials
from cloudside.mail.message import one_line

PATH = "/v2/email/account"
SERVICE = "ses"
TIMEOUT_S = 15.0
ANSWER_MAX_BYTES = 64 * 1024
_REASON_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class SesAccount:
    """An account in one region. ``credentials`` names a file of two lines, access key id and secret; read each time.

    ``endpoint`` is an https:// address without a path.
    """

    endpoint: str
    region: str
    credentials: Path
    authority: Path | None = None
    timeout_s: float = TIMEOUT_S

    async def read(self, now: datetime) -> Reading:
        """Rate and quota.

        Raises ConfigurationError: our key, policy or clock is wrong. UnavailableError: no answer, or none to use.
        """
        user, secret = read_credentials(self.credentials)
        url = self.endpoint.rstrip("/") + PATH
        headers = signed_headers(
            "GET", url, {}, key=AccessKey(user, secret), region=self.region, service=SERVICE, at=now
        )
        try:
            context = ssl.create_default_context(cafile=str(self.authority) if self.authority else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                "delivery.ses-authority", path=str(self.authority), reason=one_line(str(error), _REASON_MAX_CHARS)
            ) from None
        try:
            # trust_env off: no proxy that is meant for other programs, and no ~/.netrc in our login's place.
            async with (
                httpx.AsyncClient(verify=context, timeout=self.timeout_s, trust_env=False) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                status = response.status_code
                kind = response.headers.get("x-amzn-errortype", "")
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_MAX_BYTES:
                        raise UnavailableError("delivery.ses-answer", endpoint=self.endpoint, reason="too long")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = one_line(f"{type(error).__name__}: {error}", _REASON_MAX_CHARS)
            raise UnavailableError("delivery.ses-silent", endpoint=self.endpoint, reason=reason) from None
        if status != httpx.codes.OK:
            raise self._refusal(status, kind, body)
        return self._reading(body, now.timestamp())

    def _refusal(self, status: int, kind: str, body: bytes) -> ConfigurationError | UnavailableError:
        try:
            said = json.loads(body)
            message = str(said.get("message") or said.get("Message") or "") if isinstance(said, dict) else ""
        except ValueError:
            message = ""
        reason = one_line(f"{status} {kind.partition(':')[0]} {message}", _REASON_MAX_CHARS)
        # A wrong clock comes as 403 too; SES says so in its words.
        if status in (400, 401, 403):
            return ConfigurationError("delivery.ses-refused", path=str(self.credentials), reason=reason)
        return UnavailableError("delivery.ses-failed", endpoint=self.endpoint, reason=reason)

    def _reading(self, body: bytes, at: float) -> Reading:
        try:
            account = json.loads(body)
            quota = account["SendQuota"]
            numbers = [float(quota[name]) for name in ("Max24HourSend", "SentLast24Hours", "MaxSendRate")]
            enabled = account.get("SendingEnabled", True)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UnavailableError("delivery.ses-answer", endpoint=self.endpoint, reason="no SendQuota in it") from None
        most, sent, rate = numbers
        if not all(map(math.isfinite, numbers)) or sent < 0 or rate < 0 or enabled not in (True, False):
            raise UnavailableError("delivery.ses-answer", endpoint=self.endpoint, reason="impossible numbers")
        return Reading(at, most, sent, rate, enabled=bool(enabled))
