"""`kyoten mail new-return-key`: for operators only; says what to do next; the key itself is never shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudside.mail.bounces import keys

Kyoten = Callable[..., Any]


def test_a_new_key_signs_and_the_old_one_stays_good(world: Kyoten, tmp_path: Path) -> None:
    path = tmp_path / "state" / "mail" / keys.FILE_NAME
    (old,) = keys.load(path)
    shown = world("mail", "new-return-key").out
    new, kept = keys.load(path)
    assert kept == old and new != old
    assert str(path) in shown.replace("\n", "") and new.hex() not in shown
    assert world("mail", "new-return-key", "--json").document == {"path": str(path), "keys": 3}


def test_tenants_have_no_say_in_it(world: Kyoten, tmp_path: Path) -> None:
    path = tmp_path / "state" / "mail" / keys.FILE_NAME
    before = keys.load(path)
    assert world("--tenant", "acme", "mail", "new-return-key", status=3)
    assert keys.load(path) == before
