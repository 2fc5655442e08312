"""Files of mail that is coming in."""

import pytest

from cloudside.errors import UnavailableError
from cloudside.mail.intake.spool import Spool


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "incoming", spill_bytes=10, require_space=lambda size: None)
    yield spool
    spool.close()


async def test_pieces_become_one_body(spool):
    spill = spool.open()
    await spill.write(b"one")
    await spill.write(b"two")
    body = spill.finished()
    assert body.path.read_bytes() == b"onetwo" and body.size == 6


async def test_a_file_that_went_away_is_not_begun_anew(spool):
    """A start sweeps the directory: what came after would be a mail without its beginning."""
    spill = spool.open()
    await spill.write(b"the beginning")
    assert spool.clear() == 1
    with pytest.raises(UnavailableError):
        await spill.write(b"and the end")
    assert spool.clear() == 0


async def test_a_file_that_somebody_else_wrote_to_is_refused(spool):
    spill = spool.open()
    await spill.write(b"the beginning")
    with spill.finished().path.open("ab") as other:
        other.write(b"?")
    with pytest.raises(UnavailableError):
        await spill.write(b"and the end")
