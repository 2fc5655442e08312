"""The relay is killed again and again while it takes and delivers mail; nothing that got its 250 is lost."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import box
from lab.mail_proof import crashes
from lab.mail_proof.crashes import Outcome
from lab.postgresql import postgresql_server

CUTS = 14


@pytest.fixture
def records() -> Iterator[Path]:
    """A directory on another file system than the queue's."""
    place = Path(tempfile.mkdtemp(prefix="kyoten-crash-", dir="/dev/shm"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="crash-", dir=box.directory()))


def check(outcome: Outcome) -> None:
    assert outcome.good, (outcome.verdict, outcome.copies, outcome.reported_twice)
    assert outcome.mails > 20
    assert outcome.held > 0  # a site's mail that waited for its release came through as well
    assert all(window < 5 for window in outcome.copies.windows_s)


def test_cuts_at_any_moment_lose_nothing(directory: Path, records: Path) -> None:
    check(crashes.run(directory, records, cuts=CUTS, seed=11, command_every=7, give_up_s=5.0))


def test_the_same_on_postgresql(directory: Path, records: Path) -> None:
    with postgresql_server() as server:
        server.execute("CREATE DATABASE queue")
        url = server.url("queue")
        check(crashes.run(directory, records, cuts=CUTS // 2, seed=12, command_every=100, give_up_s=5.0, queue_url=url))
