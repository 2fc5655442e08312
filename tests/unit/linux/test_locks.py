from pathlib import Path

import pytest

from linux import locks


def test_lock_is_one_holders_until_it_is_closed(tmp_path: Path) -> None:
    first = locks.take(tmp_path / "lock")
    assert first is not None
    assert locks.take(tmp_path / "lock") is None
    first.close()
    again = locks.take(tmp_path / "lock")
    assert again is not None
    again.close()


def test_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        locks.take(tmp_path / "nowhere" / "lock")
