"""Firmware's bytes from the cloud, over mutual TLS with the device id: metadata, documents, runs of a payload.

One connection is kept for many requests. The first endpoint that answers is asked, which is the one inside the tunnel
while there is a tunnel; one that answers wrongly is passed over for the next. What arrives is not believed: whoever
asked checks signatures and hashes. Bounds here are about time and size only.
"""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from firmware.errors import SourceError
from router_agent.bundle import Endpoint
from router_agent.errors import CloudRefusedError, CloudUnreachableError
from router_agent.identity import Identity
from router_agent.report.cloud import CONNECT_S, tls_context

#: Seconds without a byte after which a connection is given up: a line that comes back with another address leaves it
#: hanging. TCP on a bad 3G line may be silent for several.
SILENCE_S = 15.0
PIECE_BYTES = 16 * 1024
#: Seconds that the cloud may ask us to wait.
RETRY_MAX_S = 600.0

_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z", re.ASCII)


class CloudBusyError(CloudUnreachableError):
    """The cloud asks to come back after ``wait_s`` seconds."""

    wait_s = 0.0


def connect(
    identity: Identity, runtime: Path, endpoints: Sequence[Endpoint], *, receive_buffer_bytes: int = 0
) -> "FirmwareClient":
    """A client with this identity. Raises StateError: key or certificate are damaged."""
    return FirmwareClient(
        tls_context(identity, runtime),
        name=identity.enrolment.endpoint_name,
        device_id=identity.device_id,
        source=str(identity.enrolment.router_address),
        endpoints=endpoints,
        receive_buffer_bytes=receive_buffer_bytes,
    )


class FirmwareClient:
    """Not for several threads. ``receive_buffer_bytes``: what the kernel takes in ahead of us, 0: as it likes. Little
    of it for a polite rate: what lies there when a connection ends was paid for in vain.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        name: str,
        device_id: str,
        source: str,
        endpoints: Sequence[Endpoint],
        receive_buffer_bytes: int = 0,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._context = context
        self._name = name
        self._device_id = device_id
        self._source = source
        self._endpoints = tuple(endpoints)
        self._receive_buffer_bytes = receive_buffer_bytes
        self._silence_s = silence_s
        self._connection: http.client.HTTPConnection | None = None
        self._where = ""
        self._skip = 0

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def pass_over(self) -> None:
        """What came from this endpoint was wrong: ask the next one."""
        self.close()
        self._skip = (self._skip + 1) % max(1, len(self._endpoints))

    def open(self, kind: str, name: str) -> Iterator[bytes]:
        """The bytes of ``metadata`` or a document of ``targets``; firmware.tuf_client.Source.

        Raises FileNotFoundError: there is none. SourceError: it did not arrive.
        """
        try:
            response = self._get(f"/firmware/v1/{kind}/{quote(name)}", {})
            if response.status == http.client.NOT_FOUND:
                self.close()
                raise FileNotFoundError(name)
            self._judge(response)
            yield from self._body(response)
        except (CloudUnreachableError, CloudRefusedError) as error:
            raise SourceError(error.key, **error.params) from error

    def ranged(self, name: str, start: int, end: int, size: int) -> Iterator[bytes]:
        """Bytes ``start`` up to and without ``end`` of a payload of ``size`` bytes, exactly so many, as they come.

        Raises CloudUnreachableError: they stopped coming; CloudRefusedError: there is no such payload, or the answer is
        about something else.
        """
        response = self._get(f"/firmware/v1/payload/{quote(name)}", {"Range": f"bytes={start}-{end - 1}"})
        if response.status in (http.client.NOT_FOUND, http.client.REQUESTED_RANGE_NOT_SATISFIABLE):
            self.close()
            raise CloudRefusedError("agent.update-payload-missing", file=name, endpoint=self._where)
        self._judge(response)
        found = _CONTENT_RANGE.match(response.getheader("Content-Range") or "")
        whole = response.status == http.client.OK and (start, end) == (0, size)
        partial = response.status == http.client.PARTIAL_CONTENT and found is not None
        if partial and found is not None:
            partial = (int(found[1]), int(found[2]) + 1, int(found[3])) == (start, end, size)
        if not (whole or partial) or response.length != end - start:
            self.close()
            raise CloudRefusedError("agent.cloud-answer-unknown", reason="not the bytes that were asked for")
        yield from self._body(response)

    def _body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        finished = False
        try:
            while piece := response.read1(PIECE_BYTES):
                yield piece
            if response.length:
                raise self._unreachable("the answer ended early")
            response.close()  # read1 leaves it open at its very end, and the connection would take no other request
            finished = True
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            if not finished or response.will_close:
                self.close()

    def _get(self, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """The answer's head. A kept connection may have died meanwhile: then a fresh one is tried, once."""
        asked = {
            "Authorization": f"KyotenDevice {self._device_id}",
            "Accept-Encoding": "identity",
            **headers,
        }
        kept = self._connection is not None
        while True:
            connection = self._connection or self._dial()
            try:
                connection.request("GET", path, headers=asked)
                return connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not kept:
                    raise self._unreachable(error) from error
                kept = False

    def _judge(self, response: http.client.HTTPResponse) -> None:
        """Raises what the status means, and hangs up."""
        if response.status in (http.client.OK, http.client.PARTIAL_CONTENT):
            if response.getheader("Content-Encoding", "identity") == "identity":
                return
            self.close()
            raise CloudRefusedError("agent.cloud-answer-unknown", reason="encoded")
        self.close()
        if response.status in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE):
            busy = CloudBusyError("agent.cloud-unreachable", endpoint=self._where, reason=f"status {response.status}")
            asked = response.getheader("Retry-After") or ""
            busy.wait_s = min(float(asked), RETRY_MAX_S) if asked.isascii() and asked.isdigit() else 0.0
            raise busy
        if response.status >= http.client.INTERNAL_SERVER_ERROR:
            raise self._unreachable(f"status {response.status}")
        raise CloudRefusedError("agent.cloud-refused", endpoint=self._where, status=response.status)

    def _dial(self) -> http.client.HTTPConnection:
        trouble = CloudUnreachableError("agent.cloud-unreachable", endpoint="", reason="no endpoint")
        for endpoint in (*self._endpoints[self._skip :], *self._endpoints[: self._skip]):
            self._where = f"{endpoint.address}:{endpoint.port}"
            try:
                secured = self._secured(endpoint)
            except OSError as error:  # ssl.SSLError is one
                trouble = self._unreachable(error)
                continue
            self._connection = http.client.HTTPConnection(self._name, endpoint.port, timeout=self._silence_s)
            self._connection.sock = secured
            return self._connection
        raise trouble

    def _secured(self, endpoint: Endpoint) -> ssl.SSLSocket:
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            if self._receive_buffer_bytes:  # before connecting: the window's scale is said in the first packet
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
            plain.settimeout(min(CONNECT_S, self._silence_s))
            if endpoint.in_tunnel:  # as heartbeats do: then the answer comes by the tunnel
                plain.bind((self._source, 0))
            plain.connect((endpoint.address, endpoint.port))
            plain.settimeout(self._silence_s)
            return self._context.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise

    def _unreachable(self, reason: Exception | str) -> CloudUnreachableError:
        said = (str(reason) or type(reason).__name__)[:200]
        return CloudUnreachableError("agent.cloud-unreachable", endpoint=self._where, reason=said)
