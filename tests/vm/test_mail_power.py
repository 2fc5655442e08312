"""The machine that relays mail is cut: its disk, rebuilt at many moments from the log of its writes, keeps each 250."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mail_proof import power

SECONDS = 12.0


@pytest.fixture
def images() -> Iterator[Path]:
    """Memory: a disk is rebuilt a hundred times."""
    place = Path(tempfile.mkdtemp(prefix="kyoten-power-", dir="/dev/shm"))
    yield place
    shutil.rmtree(place)


def test_a_power_cut_at_any_moment_loses_nothing(tmp_path: Path, images: Path) -> None:
    dice = random.Random(3)
    recorded = power.record(tmp_path, seconds=SECONDS, clients=2)
    found = power.judge(recorded, power.choose(recorded, 60, 60, dice), images / "cut", dice)
    assert [one for one in found if one.lost or one.torn] == []
    assert max(one.promised for one in found) > 10
    assert any(one.unflushed for one in found)
    assert any(one.bodies for one in found)
    # The same judge on a disk that ignores flushes: it can see a loss.
    lying = power.judge(recorded, power.choose(recorded, 0, 4, dice), images / "cut", dice, lying=True)
    assert any(one.lost for one in lying)
