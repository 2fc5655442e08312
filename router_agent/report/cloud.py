"""One exchange with the cloud: HTTPS with the site's certificate and the device id.

Only the cloud's own authority is trusted, not the machine's, and the name in the certificate is the endpoint's name
whatever address it is reached at.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from router_agent.bundle import Endpoint
from router_agent.clock import asking
from router_agent.clock.asking import Voucher
from router_agent.clock.keeper import ClockKeeper
from router_agent.errors import AgentError, CloudRefusedError, CloudUnreachableError, StateError
from router_agent.identity import Identity
from router_agent.report import clock
from router_agent.report.documents import ANSWER_MAX_BYTES, Answer, parse_answer, parse_files

#: Seconds for a connection, and for each read or write after it. A 3G line with a bad signal needs several; a tunnel
#: that has died must not keep the cloud from hearing of it past the tunnel.
CONNECT_S = 5.0
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, and the way it came. ``skew_s``: how far our clock is ahead of the cloud's."""

    answer: Answer
    endpoint: Endpoint
    skew_s: float | None = None

    def clock_wrong(self) -> AgentError | None:
        """What to say when the clocks differ too much."""
        return None if self.skew_s is None else clock.complaint(self.skew_s, datetime.now(UTC))


def connect(identity: Identity, runtime: Path, keeper: ClockKeeper | None = None) -> "CloudClient":
    """A client for this identity; it goes on with it when another one is installed. ``keeper`` sets the clock by what
    the cloud says. Raises StateError."""
    enrolment = identity.enrolment
    return CloudClient(
        tls_context(identity, runtime),
        timeless=asking.timeless(identity.text("cloud-authority.crt"), partial=True),
        keeper=keeper,
        name=enrolment.endpoint_name,
        device_id=identity.device_id,
        source=str(enrolment.router_address),
    )


def tls_context(identity: Identity, runtime: Path) -> ssl.SSLContext:
    """The router's side of mutual TLS; ``runtime`` takes a file that OpenSSL reads.

    Raises StateError: key and certificate are missing, damaged or not a pair.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The cloud's authority is not self-signed: trust ends there, and a tenant's authority is not below it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=identity.text("cloud-authority.crt"))
        # OpenSSL takes the chain from the certificate's file: the site's certificate, then its tenant's authority.
        chain = runtime / "site-chain.crt"
        chain.write_text(identity.text("site.crt").rstrip() + "\n" + identity.text("tenant-authority.crt"))
        context.load_cert_chain(chain, identity.path("site.key"))
    except (ssl.SSLError, OSError, ValueError) as error:
        raise StateError("agent.identity-damaged", path=str(identity.directory), reason=str(error)[:200]) from error
    return context


class CloudClient:
    """Talks to the first endpoint that answers. Keeps nothing between calls, so several threads may call."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        timeless: ssl.SSLContext | None = None,
        keeper: ClockKeeper | None = None,
        name: str,
        device_id: str,
        source: str,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._context = context
        self._timeless = timeless
        self._keeper = keeper
        self._name = name
        self._device_id = device_id
        self._source = source
        self._timeout_s = timeout_s

    def heartbeat(self, document: Mapping[str, object], endpoints: tuple[Endpoint, ...]) -> Heard:
        """Send a heartbeat to the first endpoint that can be reached.

        Raises CloudUnreachableError when none can, CloudRefusedError when one says no: the next one would, too.
        """
        body = json.dumps(document).encode()
        trouble = CloudUnreachableError("agent.cloud-unreachable", endpoint="", reason="no endpoint")
        for endpoint in endpoints:
            try:
                answer, date = self._post(endpoint, "/agent/v1/heartbeat", body, "application/json")
                return Heard(parse_answer(answer), endpoint, clock.skew_s(date, datetime.now(UTC)))
            except CloudUnreachableError as error:
                trouble = error
        raise trouble

    def hand_over_log(self, identifier: str, compressed: bytes, endpoints: tuple[Endpoint, ...]) -> None:
        """Send a log, gzip. Raises as `heartbeat` does."""
        self.post(f"/agent/v1/logs/{identifier}", compressed, "application/gzip", endpoints)

    def next_certificate(self, csr: str, endpoints: tuple[Endpoint, ...]) -> Mapping[str, bytes]:
        """Ask for the next certificate; the files of the answer, not yet checked. Raises as `heartbeat` does."""
        body = json.dumps({"csr": csr}).encode()
        return parse_files(self.post("/agent/v1/certificate", body, "application/json", endpoints))

    def post(self, path: str, body: bytes, content_type: str, endpoints: tuple[Endpoint, ...]) -> bytes:
        """Send anything to the first endpoint that can be reached; its answer. Raises as `heartbeat` does."""
        trouble = CloudUnreachableError("agent.cloud-unreachable", endpoint="", reason="no endpoint")
        for endpoint in endpoints:
            try:
                return self._post(endpoint, path, body, content_type)[0]
            except CloudUnreachableError as error:
                trouble = error
        raise trouble

    def _post(
        self, endpoint: Endpoint, path: str, body: bytes, content_type: str, *, again: bool = True
    ) -> tuple[bytes, str | None]:
        """The answer and its Date header. ``again``: if the clock was wrong and is set now, it is tried once more."""
        where = f"{endpoint.address}:{endpoint.port}"
        connection = http.client.HTTPConnection(self._name, endpoint.port, timeout=self._timeout_s)
        try:
            connection.sock = self._secured(endpoint)
            headers = {"Authorization": f"KyotenDevice {self._device_id}", "Content-Type": content_type}
            began = time.monotonic()
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            took_s = time.monotonic() - began
            answer = response.read(ANSWER_MAX_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in clock.VERIFY_CODES:
                voucher = self._ask_the_time(endpoint)
                if voucher is not None and again and self._believed(voucher):
                    return self._post(endpoint, path, body, content_type, again=False)
                if voucher is not None and (wrong := _complaint(voucher)) is not None:
                    raise wrong from error
            reason = error.verify_message[:200]
            raise CloudUnreachableError("agent.cloud-unreachable", endpoint=where, reason=reason) from error
        except (OSError, http.client.HTTPException) as error:
            reason = (str(error) or type(error).__name__)[:200]
            raise CloudUnreachableError("agent.cloud-unreachable", endpoint=where, reason=reason) from error
        finally:
            connection.close()
        if response.status >= 500:
            raise CloudUnreachableError("agent.cloud-unreachable", endpoint=where, reason=f"status {response.status}")
        if response.status not in (200, 204):
            raise CloudRefusedError("agent.cloud-refused", endpoint=where, status=response.status)
        if len(answer) > ANSWER_MAX_BYTES:
            raise CloudRefusedError("agent.cloud-answer-unknown", reason="too long")
        date = response.getheader("Date")
        if self._keeper is not None:
            self._keeper.answered(date, took_s)
        return answer, date

    def _connected(self, endpoint: Endpoint) -> socket.socket:
        # Inside the tunnel the source is the overlay address: then the answer proves the tunnel.
        source = (self._source, 0) if endpoint.in_tunnel else None
        plain = socket.create_connection((endpoint.address, endpoint.port), min(CONNECT_S, self._timeout_s), source)
        plain.settimeout(self._timeout_s)
        return plain

    def _secured(self, endpoint: Endpoint) -> ssl.SSLSocket:
        plain = self._connected(endpoint)
        try:
            return self._context.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise

    def _believed(self, voucher: Voucher) -> bool:
        """Whether the clock was set by it."""
        return self._keeper is not None and self._keeper.vouched(voucher.date, voucher.took_s, voucher.leaf)

    def _ask_the_time(self, endpoint: Endpoint) -> Voucher | None:
        """By our clock the endpoint's certificate does not count now: whose clock is wrong? Nothing secret is sent."""
        if self._timeless is None:
            return None
        try:
            return asking.ask(self._connected(endpoint), self._timeless, self._name)
        except OSError:
            return None


def _complaint(voucher: Voucher) -> CloudUnreachableError | None:
    here = datetime.now(UTC)
    skew_s = clock.skew_s(voucher.date, here)
    complaint = None if skew_s is None else clock.complaint(skew_s, here)
    return None if complaint is None else CloudUnreachableError(complaint.key, **complaint.params)
