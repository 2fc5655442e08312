"""A router's first certificate, asked for over the network with a ticket.

Only the ticket's root is trusted. Keys are on the disk before anything is sent, and nothing is installed before all of
the answer has been checked, so a try that was cut off anywhere can be repeated.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from router_agent import bundle, device, identity
from router_agent.clock import asking
from router_agent.clock.keeper import ClockKeeper
from router_agent.enrolment import certificates, waiting
from router_agent.enrolment.ticket import Place, Ticket
from router_agent.errors import AgentError, BundleError, CloudRefusedError, CloudUnreachableError
from router_agent.identity import Identity
from router_agent.report.clock import VERIFY_CODES
from router_agent.report.documents import parse_files

PATH = "/enrol/v1/router"
#: Seconds for a connection, and for each read after it: signing takes milliseconds, a 3G line seconds.
CONNECT_S = 10.0
TIMEOUT_S = 30.0

#: What the answers that mean "no" say to a person.
_REFUSALS = {
    400: "agent-cli.enrol-malformed",
    403: "agent-cli.enrol-token-refused",
    409: "agent-cli.enrol-device-elsewhere",
    429: "agent-cli.enrol-too-often",
}


def join(ticket: Ticket, state: Path, *, post: "Post | None" = None, keeper: ClockKeeper | None = None) -> Identity:
    """Get what the site's router needs, check it, install it. ``keeper`` sets the clock where it keeps the cloud away.

    Raises StateError: the keys could not be written, nothing was sent. CloudUnreachableError: no endpoint answered; try
    again later. CloudRefusedError: the cloud said no. BundleError: its answer is not to be trusted; nothing was
    installed.
    """
    device_id = device.ensure(state)
    waits = waiting.prepare(state, waiting.FIRST, ticket.site)
    document = {
        "site": ticket.site,
        "token": ticket.token,
        "csr": waits.csr_pem.decode(),
        "device_id": device_id,
        "ssh_host_key": waits.host_key,
    }
    answer = _ask(ticket, json.dumps(document).encode(), post or exchange, keeper)
    new = bundle.of_files(parse_files(answer))
    problems = certificates.check(new.members, new.enrolment, site=ticket.site, key_pem=waits.key_pem, root=ticket.root)
    if problems:
        raise BundleError(problems)
    return identity.install(new, state)


Post = Callable[[Ticket, Place, bytes], tuple[int, bytes]]


def _ask(ticket: Ticket, body: bytes, post: Post, keeper: ClockKeeper | None) -> bytes:
    trouble: AgentError = CloudUnreachableError("agent-cli.enrol-unreachable", endpoint="", reason="")
    places = list(ticket.endpoints)
    while places:
        place = places.pop(0)
        where = f"{place.address}:{place.port}"
        try:
            status, answer = post(ticket, place, body)
        except ssl.SSLCertVerificationError as error:
            trouble = _untrusted(where, error)
            if keeper is not None and error.verify_code in VERIFY_CODES and _clock_set(ticket, place, keeper):
                places, keeper = [place, *places], None
        except (OSError, http.client.HTTPException) as error:
            reason = (str(error) or type(error).__name__)[:200]
            trouble = CloudUnreachableError("agent-cli.enrol-unreachable", endpoint=where, reason=reason)
        else:
            if status == 200:
                return answer
            if status < 500:
                key = _REFUSALS.get(status, "agent-cli.enrol-refused")
                raise CloudRefusedError(key, endpoint=where, status=status, site=ticket.site, error=_key_of(answer))
            trouble = CloudUnreachableError("agent-cli.enrol-unreachable", endpoint=where, reason=f"status {status}")
    raise trouble


def _clock_set(ticket: Ticket, place: Place, keeper: ClockKeeper) -> bool:
    """By our clock the endpoint's certificate does not count: whether the clock was wrong, and is set now."""
    try:
        plain = socket.create_connection((place.address, place.port), CONNECT_S)
    except OSError:
        return False
    plain.settimeout(TIMEOUT_S)
    context = asking.timeless(ticket.root.decode(), partial=False)
    voucher = asking.ask(plain, context, ticket.endpoint_name)
    return voucher is not None and keeper.vouched(voucher.date, voucher.took_s, voucher.leaf)


def _untrusted(where: str, error: ssl.SSLCertVerificationError) -> AgentError:
    if error.verify_code in VERIFY_CODES:
        here = datetime.now(UTC).isoformat(timespec="minutes")
        return CloudUnreachableError("agent-cli.enrol-clock", endpoint=where, here=here)
    return CloudUnreachableError("agent-cli.enrol-untrusted", endpoint=where, reason=error.verify_message[:200])


def _key_of(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])[:100]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "-"


def exchange(ticket: Ticket, place: Place, body: bytes) -> tuple[int, bytes]:
    """One POST: status and answer. Raises OSError (ssl's errors are ones) and http.client.HTTPException."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ticket.root.decode())
    connection = http.client.HTTPConnection(ticket.endpoint_name, place.port, timeout=TIMEOUT_S)
    try:
        plain = socket.create_connection((place.address, place.port), CONNECT_S)
        plain.settimeout(TIMEOUT_S)
        try:
            connection.sock = context.wrap_socket(plain, server_hostname=ticket.endpoint_name)
        except BaseException:
            plain.close()
            raise
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(bundle.BUNDLE_MAX_BYTES)
    finally:
        connection.close()
