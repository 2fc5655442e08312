"""A stand-in for Amazon SES's API v2, as far as the relay asks it: GetAccount, over HTTPS, with signatures checked.

It behaves: a request without a signature, with a wrong one, an old one or one for another region is refused as SES does
it. And it can be told to misbehave: see Mood.

As a program: ``python -m lab.ses_api ADDRESS PORT CERTIFICATE KEY CREDENTIALS STATE``. CREDENTIALS has two lines, key
id and secret; STATE is a JSON file with fields of Account, read for each question.
"""

import asyncio
import hashlib
import hmac
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

PATH = "/v2/email/account"
#: SES refuses what was signed longer ago, or so far in the future.
CLOCK_SKEW = timedelta(minutes=5)
_HEAD_MAX_BYTES = 64 * 1024
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/ses/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)


class Mood(StrEnum):
    """How it answers a question that is in order."""

    NORMAL = "normal"
    THROTTLED = "throttled"
    FAILED = "failed"
    SILENT = "silent"
    #: Not JSON, JSON of another shape, numbers that cannot be, and more than anybody should read.
    GARBAGE = "garbage"
    STRANGE = "strange"
    IMPOSSIBLE = "impossible"
    ENDLESS = "endless"


@dataclass(frozen=True, slots=True)
class Account:
    """What SES would know. ``most`` and ``sent``: mails in 24 hours; ``rate``: mails a second."""

    most: float = 50_000.0
    sent: float = 0.0
    rate: float = 14.0
    enabled: bool = True
    mood: Mood = Mood.NORMAL


@dataclass(slots=True)
class SesApi:
    """The stand-in. ``account`` may be changed at any time; with ``state`` it is read from that file."""

    key_id: str
    secret: str = field(repr=False)
    region: str = "ap-northeast-1"
    account: Account = Account()
    state: Path | None = None
    #: Questions that were in order, and those that were refused.
    answered: int = 0
    refused: int = 0
    port: int = 0

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[None]:
        """Serves until the block ends."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._serve(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, address, port, ssl=context, limit=_HEAD_MAX_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
        }
        if self.state is not None:
            raw = json.loads(self.state.read_text(encoding="utf-8"))
            self.account = replace(Account(), **{**raw, "mood": Mood(raw.get("mood", "normal"))})
        refusal = self._refusal(method, target, headers, datetime.now(UTC))
        if refusal is not None:
            self.refused += 1
            _answer(writer, 403, {"message": refusal[1]}, kind=refusal[0])
        elif (method, target) != ("GET", PATH):
            _answer(writer, 404, {"message": "no such operation here"}, kind="UnknownOperationException")
        else:
            self.answered += 1
            await self._account(writer)
        await writer.drain()

    async def _account(self, writer: asyncio.StreamWriter) -> None:
        account = self.account
        quota: dict[str, object] = {
            "Max24HourSend": account.most, "MaxSendRate": account.rate, "SentLast24Hours": account.sent,
        }  # fmt: skip
        whole = {
            "DedicatedIpAutoWarmupEnabled": False,
            "EnforcementStatus": "HEALTHY",
            "ProductionAccessEnabled": True,
            "SendQuota": quota,
            "SendingEnabled": account.enabled,
        }
        match account.mood:
            case Mood.NORMAL:
                _answer(writer, 200, whole)
            case Mood.THROTTLED:
                _answer(writer, 429, {"message": "Rate exceeded"}, kind="TooManyRequestsException")
            case Mood.FAILED:
                _answer(writer, 503, {"message": "Service unavailable"}, kind="InternalServiceErrorException")
            case Mood.SILENT:
                await asyncio.Event().wait()
            case Mood.GARBAGE:
                _answer(writer, 200, b"<html>\xff\x00 a portal of some hotel</html>")
            case Mood.STRANGE:
                _answer(writer, 200, {"SendQuota": ["Max24HourSend"]})
            case Mood.IMPOSSIBLE:
                _answer(writer, 200, {**whole, "SendQuota": {**quota, "MaxSendRate": -3, "SentLast24Hours": 1e400}})
            case Mood.ENDLESS:
                _answer(writer, 200, b'{"SendQuota": "' + b"x" * 1_000_000)

    def _refusal(self, method: str, target: str, headers: Mapping[str, str], now: datetime) -> tuple[str, str] | None:
        """The error's type and words; None: the signature is good. Written anew from Amazon's description, so that it
        does not share a mistake with the relay."""
        found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if found is None:
            return "MissingAuthenticationTokenException", "Missing Authentication Token"
        key_id, day, region, signed, signature = found.groups()
        stamp = headers.get("x-amz-date", "")
        try:
            at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            return "IncompleteSignatureException", "X-Amz-Date is missing or malformed"
        if key_id != self.key_id:
            return "UnrecognizedClientException", "The security token included in the request is invalid."
        if region != self.region or not stamp.startswith(day):
            return "SignatureDoesNotMatch", "Credential should be scoped to a valid region."
        if abs(now - at) > CLOCK_SKEW:
            return "SignatureDoesNotMatch", f"Signature expired: {stamp} is now earlier than {now - CLOCK_SKEW}"
        names = signed.split(";")
        if not {"host", "x-amz-date"} <= set(names) or any(name not in headers for name in names):
            return "IncompleteSignatureException", "host and x-amz-date must be signed"
        path, _, query = target.partition("?")
        request = f"{method}\n{path}\n{query}\n"
        for name in names:
            request += f"{name}:{headers[name]}\n"
        request += f"\n{signed}\n{hashlib.sha256(b'').hexdigest()}"
        scope = f"{day}/{region}/ses/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = b"AWS4" + self.secret.encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), "sha256").digest()
        if hmac.new(key, text.encode(), "sha256").hexdigest() != signature:
            return "SignatureDoesNotMatch", "The request signature we calculated does not match the one you provided."
        return None


def _answer(writer: asyncio.StreamWriter, status: int, body: Mapping[str, object] | bytes, *, kind: str = "") -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\nConnection: close\r\n"
    )
    if kind:
        head += f"x-amzn-ErrorType: {kind}\r\n"
    writer.write(head.encode() + b"\r\n" + raw)


async def _main(address: str, port: int, certificate: Path, key: Path, credentials: Path, state: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    key_id, secret = credentials.read_text(encoding="utf-8").split()[:2]
    api = SesApi(key_id, secret, state=state)
    async with api.running(context, address, port):
        sys.stdout.write(f"listening on {address} port {api.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:7])))
