"""The door on a real terminal: who presses Enter sees a challenge, and only the right response gives a shell."""

import errno
import io
import os
import pty
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment_papers import SITE, make_papers

from firmware import console
from router_agent import bundle, identity
from router_agent.console.ledger import Ledger

SERVICE = ec.derive_private_key(1001, ec.SECP256R1())
#: Nothing here waits for time: this only ends a test that hangs.
LIMIT_S = 60.0

_RUN = """
import fcntl, sys, termios
from pathlib import Path
from router_agent.console import terminal
fcntl.ioctl(0, termios.TIOCSCTTY, 1)
sys.exit(terminal.run(Path(sys.argv[1]), shell=("/bin/sh", "-c", sys.argv[2]), idle_s=float(sys.argv[3])))
"""


class Visitor:
    """Somebody with a laptop on the line."""

    def __init__(self, state: Path, *, runs: str, idle_s: float) -> None:
        self._line, far = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(state), runs, str(idle_s)],
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
            env={**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
        )
        os.close(far)
        self.seen = ""

    def types(self, text: str) -> None:
        os.write(self._line, f"{text}\n".encode())

    def sees(self, pattern: str) -> "re.Match[str]":
        """Read on until it is there."""
        ends = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < ends, self.seen
            try:
                read = os.read(self._line, 1000)
            except OSError as error:
                assert error.errno == errno.EIO
                read = b""
            assert read, f"the line went dead: {self.seen}"
            self.seen += read.decode(errors="replace").replace("\r", "")
        return found

    def ends(self) -> int:
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._line)


class Door:
    """A router's state directory, and visitors to it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.visitors: list[Visitor] = []

    def visit(self, *, runs: str = "echo inside; id -u", idle_s: float = 900.0) -> Visitor:
        self.visitors.append(Visitor(self.state, runs=runs, idle_s=idle_s))
        return self.visitors[-1]

    def response(self, challenge: str) -> str:
        """As the cloud works it out: from the site's certificate."""
        public = x509.load_pem_x509_certificate((self.state / "identity/site.crt").read_bytes()).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        secret = console.secret(SERVICE, public, SERVICE.public_key())
        return console.response(secret, SITE, console.parse_challenge(challenge))


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "state")
    yield made
    for visitor in made.visitors:
        visitor.close()


def enrol(state: Path, *, with_key: bool = True) -> None:
    members = make_papers().old_bundle()
    if with_key:
        members[bundle.CONSOLE_KEY] = SERVICE.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    identity.install(bundle.read(archive.getvalue()), state)


def challenge_of(visitor: Visitor) -> str:
    return visitor.sees(rf"console {SITE} ((?:[0-9A-Z]{{4}}-?){{3}})")[1]


def test_the_right_response_gives_a_shell_once(door: Door) -> None:
    enrol(door.state)
    visitor = door.visit()
    challenge = challenge_of(visitor)
    visitor.sees("Response: $")
    visitor.types(challenge)
    visitor.sees("That is the challenge")
    visitor.types("12")
    visitor.sees("twelve signs")
    visitor.types(door.response(challenge))
    visitor.sees("inside")
    assert visitor.ends() == 0
    (kept,) = Ledger(door.state).logins("another boot")
    assert (kept.challenge, kept.ended) == (challenge, True)
    # The next visitor has another challenge.
    assert challenge_of(door.visit()) != challenge


def test_a_response_of_before_opens_nothing(door: Door) -> None:
    enrol(door.state)
    first = challenge_of(door.visit())
    visitor = door.visit()
    visitor.sees("Response: $")
    visitor.types(door.response(first))
    visitor.sees("Tries left: 2")
    assert Ledger(door.state).wrong() == 1


def test_wrong_answers_are_counted_on_the_disk_and_shut_the_door(door: Door) -> None:
    enrol(door.state)
    visitor = door.visit()
    for number, seen in enumerate(("Tries left: 2", "Tries left: 1", "no more tries"), 1):
        visitor.types(console.write(console.Kind.RESPONSE, number))
        visitor.sees(seen)
        assert Ledger(door.state).wrong() == number
    assert visitor.ends() == 0
    # Pulling the plug saves no wait.
    door.visit().sees("Wait 60 s")


def test_nobody_there_for_too_long_ends_the_session(door: Door) -> None:
    enrol(door.state)
    visitor = door.visit(runs="echo inside; exec sleep 1000", idle_s=1.0)
    visitor.types(door.response(challenge_of(visitor)))
    visitor.sees("inside")
    visitor.sees("the session ends")
    assert visitor.ends() != 0
    assert [login.ended for login in Ledger(door.state).logins("another boot")] == [True]


def test_keys_of_the_line_end_nothing_at_the_prompt(door: Door) -> None:
    enrol(door.state)
    visitor = door.visit()
    challenge = challenge_of(visitor)
    visitor.sees("Response: $")
    visitor.types("\x03\x1c\x1a")
    visitor.types(door.response(challenge))
    visitor.sees("inside")


def test_a_router_that_is_not_enrolled_says_what_it_is(door: Door) -> None:
    visitor = door.visit()
    visitor.sees("belongs to no site")
    assert visitor.ends() == 0


def test_a_router_without_the_console_key_says_so(door: Door) -> None:
    enrol(door.state, with_key=False)
    visitor = door.visit()
    visitor.sees("has not given this router its console key")
    assert visitor.ends() == 0


def test_a_damaged_key_gives_no_shell(door: Door) -> None:
    enrol(door.state)
    (door.state / "identity/site.key").write_bytes(b"rust")
    visitor = door.visit()
    visitor.sees("Nobody can log in here")
    assert visitor.ends() == 1
