"""The ways that notices leave by without the mail queue: webhooks, and another smarthost.

Each way makes one try a call and says what went wrong in words that hold no secret; trying again is the teller's
business. Addresses, keys and passwords are read from their files at each try, so an exchanged one needs no restart.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiosmtplib
import httpx

from cloudside.alerts.notices import Notice, Stage
from cloudside.config import Alerts, SecondSmarthost, Webhook

SIGNATURE_HEADER = "X-Kyoten-Signature"
#: Longest that one try may take.
TRY_S = 4.0
#: Answers that may be others next time.
_PASSING = frozenset({408, 425, 429})
_REASON_MAX_CHARS = 200


class PathError(Exception):
    """A way did not take a notice; the text says why. ``lasting``: trying again would not help."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(" ".join(reason.split())[:_REASON_MAX_CHARS])
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Telling:
    """What is told. ``id`` is the same for each try and each way, so that a receiver can drop a second one."""

    id: str
    kind: str
    subject: str
    stage: Stage
    notice: Notice
    opened_at: datetime
    at: datetime
    incident: int | None = None
    params: Mapping[str, Any] | None = None


class Way(Protocol):
    """One way for notices. ``ends``: whether ends of incidents go there too."""

    @property
    def name(self) -> str: ...

    @property
    def ends(self) -> bool: ...

    async def tell(self, telling: Telling) -> None:
        """Hand it over. Raises PathError."""


def body_of(telling: Telling) -> bytes:
    """The JSON that webhooks get."""
    return json.dumps(
        {
            "id": telling.id,
            "incident": telling.incident,
            "kind": telling.kind,
            "subject": telling.subject,
            "stage": telling.stage,
            "title": telling.notice.subject,
            "text": telling.notice.body,
            "opened_at": telling.opened_at.isoformat(),
            "sent_at": telling.at.isoformat(),
            "params": dict(telling.params or {}),
        },
        ensure_ascii=False,
        default=str,
    ).encode()


def signature(body: bytes, key: bytes) -> str:
    """What stands in the signature's header."""
    return "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()


class WebhookWay:
    """HTTPS POST; any answer of 200 to 299 means that it was taken."""

    ends = True

    def __init__(self, webhook: Webhook, number: int) -> None:
        self._webhook = webhook
        self.name = f"webhook/{number}"
        # It logs each request with its address.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    async def tell(self, telling: Telling) -> None:
        """Post it. Raises PathError."""
        url = (await _secret(self._webhook.url))[0]
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            raise PathError(f"the first line of {self._webhook.url} is no https:// address", lasting=True)
        body = body_of(telling)
        headers = {"Content-Type": "application/json", "User-Agent": "kyoten"}
        if self._webhook.key is not None:
            headers[SIGNATURE_HEADER] = signature(body, (await _secret(self._webhook.key))[0].encode())
        context = await _context(self._webhook.ca)
        try:
            async with (
                asyncio.timeout(TRY_S),
                httpx.AsyncClient(verify=context, trust_env=False, timeout=TRY_S) as client,
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                status = response.status_code  # what else it says is of no interest, and may be long
        except TimeoutError:
            raise PathError(f"no answer within {TRY_S:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The address holds a secret, and nobody promises that it is in no text.
            said = str(error) if isinstance(error, httpx.ConnectError) and url not in str(error) else ""
            raise PathError(f"{type(error).__name__} {said}") from None
        if not 200 <= status < 300:
            raise PathError(f"answered {status}", lasting=status < 500 and status not in _PASSING)


class SmarthostWay:
    """A mail to staff, handed to another smarthost directly. STARTTLS, or TLS from the first byte on port 465."""

    ends = False

    def __init__(self, smarthost: SecondSmarthost, staff: tuple[str, ...], sender: str, compose: "Compose") -> None:
        self._smarthost = smarthost
        self._staff = staff
        self._sender = sender
        self._compose = compose
        self.name = f"smarthost/{smarthost.host}"

    async def tell(self, telling: Telling) -> None:
        """One transaction. Raises PathError, also when one of the staff is refused and no other was taken."""
        login = await _secret(self._smarthost.credentials, lines=2) if self._smarthost.credentials else None
        at_once = self._smarthost.port == 465
        client = aiosmtplib.SMTP(
            hostname=self._smarthost.host,
            port=self._smarthost.port,
            use_tls=at_once,
            start_tls=not at_once,
            tls_context=await _context(self._smarthost.ca),
            timeout=TRY_S,
            local_hostname="kyoten",
        )
        try:
            async with asyncio.timeout(TRY_S):
                await client.connect()
                if login is not None:
                    await client.login(login[0], login[1])
                await client.sendmail(self._sender, list(self._staff), self._compose(telling))
        except TimeoutError:
            raise PathError(f"no answer within {TRY_S:g} s") from None
        except aiosmtplib.SMTPResponseException as error:
            raise PathError(f"answered {error.code} {error.message}", lasting=error.code >= 500) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise PathError(f"{type(error).__name__} {error}") from None
        finally:
            client.close()


class Compose(Protocol):
    """Makes a whole mail of a telling, with CRLF line ends."""

    def __call__(self, telling: Telling) -> bytes: ...


def ways(alerts: Alerts, compose: Compose) -> list[Way]:
    """Those that the configuration names, webhooks first."""
    found: list[Way] = [WebhookWay(webhook, number) for number, webhook in enumerate(alerts.webhooks, start=1)]
    if alerts.smarthost is not None and alerts.staff:
        found.append(SmarthostWay(alerts.smarthost, alerts.staff, alerts.sender, compose))
    return found


async def _secret(path: Path, *, lines: int = 1) -> list[str]:
    try:
        text = await asyncio.to_thread(path.read_text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PathError(
            f"{path} is unreadable: {getattr(error, 'strerror', None) or 'no text'}", lasting=True
        ) from None
    found = [line.strip() for line in text.splitlines()]
    if len(found) < lines or not all(found[:lines]):
        raise PathError(f"{path} does not have {lines} lines", lasting=True)
    return found


async def _context(authority: Path | None) -> ssl.SSLContext:
    # Reading the system's authorities takes tens of milliseconds.
    try:
        return await asyncio.to_thread(ssl.create_default_context, cafile=str(authority) if authority else None)
    except (OSError, ssl.SSLError) as error:
        raise PathError(f"{authority} is unusable: {error}", lasting=True) from None
