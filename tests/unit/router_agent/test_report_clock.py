"""A router whose clock is a year off: it says so instead of calling the cloud unreachable. Real TLS on loopback."""

import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment_papers import SITE, Papers, make_papers, pem

from cloudside.pki import authority
from cloudside.pki.authority import Leaf
from router_agent import bundle, identity
from router_agent.bundle import Endpoint
from router_agent.clock import judge
from router_agent.clock.keeper import ClockKeeper
from router_agent.enrolment import join
from router_agent.enrolment.ticket import Place, Ticket
from router_agent.errors import CloudUnreachableError
from router_agent.report import clock, cloud

PAPERS = make_papers()
YEAR = timedelta(days=366)


@contextmanager
def endpoint(
    directory: Path, *, lives_at: datetime, valid_at: datetime, papers: Papers = PAPERS
) -> Iterator[tuple[Endpoint, list[str]]]:
    """A cloud whose time is ``lives_at`` and whose certificate was made at ``valid_at``."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = Leaf("agent.kyoten", ("agent.kyoten",), (authority.SERVER_AUTH,))
    made = authority.make_leaf(papers.cloud, leaf, key=key.public_key(), now=valid_at, serial=secrets.randbits(100))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "endpoint.pem").write_bytes(secret + pem(made) + pem(papers.cloud.certificate))
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(f"{self.command} {self.headers.get('Authorization', '-')[:6]}")
            self.send_response(200)
            self.send_header("Content-Length", "34")
            self.end_headers()
            if self.command == "POST":
                self.wfile.write(b'{"protocol": 1, "heartbeat_s": 30}')

        do_POST = do_HEAD = answer

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(lives_at, usegmt=True)

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "endpoint.pem")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Endpoint("127.0.0.1", server.server_port, False), seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client(directory: Path, keeper: ClockKeeper | None = None) -> cloud.CloudClient:
    members = PAPERS.old_bundle()
    enrolment = bundle.parse_enrolment(members["bundle.json"], [])
    assert enrolment is not None
    return cloud.connect(identity.install(bundle.Bundle(enrolment, members), directory / "state"), directory, keeper)


class Machine:
    """A clock that runs as far off as somebody has set it; what TLS goes by is the real one."""

    def __init__(self) -> None:
        self.off = timedelta()
        self.kept = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + self.off

    def set_clock(self, at: datetime) -> None:
        self.off = at - datetime.now(UTC)

    def keep(self) -> None:
        self.kept += 1


def keeper_of(machine: Machine, floor: datetime) -> ClockKeeper:
    known = judge.bounds([floor], floor + 10 * YEAR)
    return ClockKeeper(known, now=machine.now, set_clock=machine.set_clock, keep=machine.keep)


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_a_clock_a_year_off_is_told_as_such_and_no_secret_is_sent(tmp_path: Path, off: timedelta) -> None:
    # The router lives now; the cloud, whose clock is right, lives a year away.
    there = datetime.now(UTC) + off
    with (
        endpoint(tmp_path, lives_at=there, valid_at=there) as (place, seen),
        pytest.raises(CloudUnreachableError) as caught,
    ):
        client(tmp_path).heartbeat({}, (place,))
    assert caught.value.key == "agent.clock-wrong"
    assert str(caught.value.params["cloud"])[:4] == str(there.year)
    assert seen == ["HEAD -"]


def test_an_endpoint_whose_own_certificate_has_ended_is_no_wrong_clock(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with (
        endpoint(tmp_path, lives_at=now, valid_at=now - YEAR) as (place, _),
        pytest.raises(CloudUnreachableError, match="expired") as caught,
    ):
        client(tmp_path).heartbeat({}, (place,))
    assert caught.value.key == "agent.cloud-unreachable"


@pytest.mark.parametrize(("off", "wrong"), [(timedelta(minutes=20), True), (timedelta(seconds=30), False)])
def test_a_clock_that_still_works_but_is_off_is_told_with_the_answer(
    tmp_path: Path, off: timedelta, wrong: bool
) -> None:
    now = datetime.now(UTC)
    with endpoint(tmp_path, lives_at=now - off, valid_at=now) as (place, _):
        heard = client(tmp_path).heartbeat({}, (place,))
    assert heard.skew_s is not None
    assert abs(heard.skew_s - off.total_seconds()) < 5
    assert (heard.clock_wrong() is not None) is wrong


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sat, 99 Foo 2026"])
def test_a_date_that_is_none_says_nothing(header: str | None) -> None:
    assert clock.skew_s(header, datetime.now(UTC)) is None


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_a_clock_a_year_off_is_set_by_who_has_the_endpoints_key(tmp_path: Path, off: timedelta) -> None:
    there, machine = datetime.now(UTC) + off, Machine()
    with (
        endpoint(tmp_path, lives_at=there, valid_at=there) as (place, seen),
        pytest.raises(CloudUnreachableError) as caught,
    ):
        client(tmp_path, keeper_of(machine, there - YEAR)).heartbeat({}, (place,))
    assert abs(machine.off - off) < timedelta(minutes=1)
    # TLS in this process goes by the real clock, so the second try fails as the first one; there is no third.
    assert caught.value.key == "agent.clock-wrong"
    assert seen == ["HEAD -", "HEAD -"]


def test_a_clock_is_not_set_to_before_the_floor(tmp_path: Path) -> None:
    there, machine = datetime.now(UTC) - YEAR, Machine()
    with endpoint(tmp_path, lives_at=there, valid_at=there) as (place, _), pytest.raises(CloudUnreachableError):
        client(tmp_path, keeper_of(machine, datetime.now(UTC) - YEAR / 2)).heartbeat({}, (place,))
    assert machine.off == timedelta()


def test_a_stranger_sets_no_clock(tmp_path: Path) -> None:
    """An authority that is not ours, with the right name."""
    there, machine = datetime.now(UTC) + YEAR, Machine()
    with (
        endpoint(tmp_path, lives_at=there, valid_at=there, papers=make_papers()) as (place, seen),
        pytest.raises(CloudUnreachableError),
    ):
        client(tmp_path, keeper_of(machine, there - 2 * YEAR)).heartbeat({}, (place,))
    assert machine.off == timedelta()
    assert seen == []


@pytest.mark.parametrize("off", [timedelta(minutes=20), -timedelta(seconds=20)])
def test_an_answer_sets_a_clock_that_still_works_and_keeps_it(tmp_path: Path, off: timedelta) -> None:
    now, machine = datetime.now(UTC), Machine()
    with endpoint(tmp_path, lives_at=now - off, valid_at=now) as (place, _):
        client(tmp_path, keeper_of(machine, now - YEAR)).heartbeat({}, (place,))
    assert abs(machine.off + off) < timedelta(seconds=5)
    assert machine.kept == 1


def test_an_answer_leaves_a_clock_that_is_right_and_keeps_it_once(tmp_path: Path) -> None:
    now, machine = datetime.now(UTC), Machine()
    with endpoint(tmp_path, lives_at=now, valid_at=now) as (place, _):
        asking = client(tmp_path, keeper_of(machine, now - YEAR))
        asking.heartbeat({}, (place,))
        asking.heartbeat({}, (place,))
    assert (machine.off, machine.kept) == (timedelta(), 1)


def test_enrolment_with_a_ticket_sets_the_clock_and_tries_again(tmp_path: Path) -> None:
    there, machine = datetime.now(UTC) + YEAR, Machine()
    tried = 0

    def post(_: Ticket, __: Place, body: bytes) -> tuple[int, bytes]:
        nonlocal tried
        tried += 1
        if tried == 1:
            early = ssl.SSLCertVerificationError("certificate is not yet valid")
            early.verify_code, early.verify_message = 9, "certificate is not yet valid"
            raise early
        files = PAPERS.files(json.loads(body)["csr"].encode())
        return 200, json.dumps({"files": {name: text.decode() for name, text in files.items()}}).encode()

    with endpoint(tmp_path, lives_at=there, valid_at=there) as (place, seen):
        root = pem(PAPERS.root.certificate)
        ticket = Ticket(SITE, "", (Place(place.address, place.port),), "agent.kyoten", root)
        keeper = keeper_of(machine, there - 2 * YEAR)
        who = join.join(ticket, tmp_path / "state", post=post, keeper=keeper)
    assert (who.enrolment.site, tried, seen) == (SITE, 2, ["HEAD -"])
    assert abs(machine.off - YEAR) < timedelta(minutes=1)
