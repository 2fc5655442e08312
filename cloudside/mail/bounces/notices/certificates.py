"""The certificates that Amazon SNS signs with, over HTTPS from its own hosts; and the one other call: confirming.

That the certificate is Amazon's is known from the host that it lies on, whose own certificate TLS checks. Invariants:
no redirect is followed, an answer is bounded, and strangers' notices cannot make us ask more than a few times a minute.
"""

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from cloudside.errors import ConfigurationError, RefusedError, UnavailableError
from cloudside.mail.bounces.notices import envelope
from cloudside.mail.bounces.rates import Rate

#: A certificate in PEM has 2 KiB.
ANSWER_MAX_BYTES = 64 * 1024
TIMEOUT_S = 10.0
#: A certificate is fetched again after this time: one that Amazon withdrew is used no longer.
CACHE_S = 86400.0
CACHED_MAX = 8
#: Certificates asked for a minute that are not in the cache.
FETCHES_PER_MINUTE = 12.0
KEY_MIN_BITS = 2048


@dataclass(frozen=True, slots=True)
class _Known:
    key: RSAPublicKey
    good_from: datetime
    good_until: datetime
    fetched_at: float


class Certificates:
    """Fetches, keeps and judges signing certificates. ``clock``: seconds since the epoch."""

    def __init__(
        self, hosts: tuple[str, ...], authority: Path | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """``authority``: a PEM file to trust instead of the system's. Raises ConfigurationError: it cannot be read."""
        self.hosts = hosts
        self._clock = clock
        try:
            context = ssl.create_default_context(cafile=str(authority) if authority is not None else None)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError("mail.certificate-unusable", path=str(authority), reason=str(error)) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._client = httpx.AsyncClient(verify=context, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetches = Rate(FETCHES_PER_MINUTE, int(FETCHES_PER_MINUTE))
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def key(self, url: str) -> RSAPublicKey:
        """The public key of the certificate at ``url``.

        Raises RefusedError: not one of our hosts, or no good certificate; UnavailableError: cannot be fetched now.
        """
        envelope.require_certificate_url(url, self.hosts)
        known = self._fresh(url)
        if known is None:
            async with self._one_at_a_time:
                known = self._fresh(url)
                if known is None:
                    known = await self._fetched(url)
                    self._known[url] = known
                    while len(self._known) > CACHED_MAX:
                        self._known.popitem(last=False)
        at = datetime.fromtimestamp(self._clock(), UTC)
        if not known.good_from <= at <= known.good_until:
            raise RefusedError(
                "bounces.certificate-refused",
                host=_host(url),
                reason=f"valid from {known.good_from:%Y-%m-%d} to {known.good_until:%Y-%m-%d}",
            )
        return known.key

    async def confirm(self, url: str, topic: str) -> None:
        """Confirm a subscription. Raises RefusedError: no address of ours, refused there; UnavailableError: not now."""
        envelope.require_confirmation_url(url, topic, self.hosts)
        status, _ = await self._get(url)
        if status >= 500:
            raise UnavailableError("bounces.certificate-away", host=_host(url), reason=f"HTTP {status}")
        if status != 200:
            raise RefusedError("bounces.confirmation-refused", topic=topic, host=_host(url), status=status)

    def _fresh(self, url: str) -> _Known | None:
        known = self._known.get(url)
        return known if known is not None and 0 <= self._clock() - known.fetched_at < CACHE_S else None

    async def _fetched(self, url: str) -> _Known:
        if not self._fetches.take("", time.monotonic()):
            raise UnavailableError("bounces.certificate-away", host=_host(url), reason="asked too often")
        status, answer = await self._get(url)
        if status >= 500:
            raise UnavailableError("bounces.certificate-away", host=_host(url), reason=f"HTTP {status}")
        if status != 200:
            raise RefusedError("bounces.certificate-refused", host=_host(url), reason=f"HTTP {status}")
        try:
            certificate = x509.load_pem_x509_certificate(answer)
            key = certificate.public_key()
        except ValueError:
            raise RefusedError("bounces.certificate-refused", host=_host(url), reason="no certificate") from None
        if not isinstance(key, RSAPublicKey) or key.key_size < KEY_MIN_BITS:
            raise RefusedError("bounces.certificate-refused", host=_host(url), reason="no RSA key, or a short one")
        return _Known(key, certificate.not_valid_before_utc, certificate.not_valid_after_utc, self._clock())

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status and the beginning of an answer. Raises UnavailableError."""
        answer = bytearray()
        try:
            async with asyncio.timeout(TIMEOUT_S), self._client.stream("GET", url) as response:
                async for piece in response.aiter_bytes():
                    answer += piece
                    if len(answer) > ANSWER_MAX_BYTES:
                        break
                return response.status_code, bytes(answer[:ANSWER_MAX_BYTES])
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            raise UnavailableError("bounces.certificate-away", host=_host(url), reason=type(error).__name__) from None


def _host(url: str) -> str:
    return urlsplit(url).netloc
