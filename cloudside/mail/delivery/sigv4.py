"""AWS Signature Version 4 of one request. Pure.

Amazon's "Create a signed AWS API request" (IAM user guide); the tests hold Amazon's published examples.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key id and its secret."""

    id: str
    secret: str = field(repr=False)


def signed_headers(
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    body: bytes = b"",
    key: AccessKey,
    region: str,
    service: str,
    at: datetime,
) -> dict[str, str]:
    """``headers`` with Host, X-Amz-Date and Authorization. ``at`` must be aware; AWS refuses more than 5 minutes off.

    The path of ``url`` is taken as it is, unencoded; a name may stand in its query several times.
    """
    parts = urlsplit(url)
    stamp = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    given = {name.lower(): value for name, value in headers.items()}
    all_headers = {**given, "host": parts.netloc, "x-amz-date": stamp}
    names = ";".join(sorted(all_headers))
    canonical = "\n".join(
        [
            method,
            quote(parts.path or "/", safe="/" + _UNRESERVED),
            _query(parts.query),
            *(f"{name}:{' '.join(all_headers[name].split())}" for name in sorted(all_headers)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signing_key = f"AWS4{key.secret}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        signing_key = hmac.digest(signing_key, part.encode(), hashlib.sha256)
    signature = hmac.digest(signing_key, to_sign.encode(), hashlib.sha256).hex()
    all_headers["authorization"] = (
        f"{ALGORITHM} Credential={key.id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return all_headers


def _query(raw: str) -> str:
    pairs = [(quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in parse_qsl(raw, True)]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
