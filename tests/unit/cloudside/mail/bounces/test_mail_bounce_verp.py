"""Signed return addresses and the file with their keys."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.errors import ConfigurationError
from cloudside.mail.address import valid
from cloudside.mail.bounces import keys, verp

KEY = bytes(range(32))


@given(st.integers(0, 2**63 - 1), st.integers(0, 65535), st.booleans())
def test_return_addresses_come_back_in_any_case_and_fit(message_id, index, own):
    address = verp.ReturnAddress(message_id, index, own)
    text = verp.compose(address, key=KEY, domain="bounces.test")
    assert len(text.partition("@")[0]) <= 64 and valid(text)
    assert verp.parse(text.upper(), keys=[KEY], domain="bounces.test") == address
    assert verp.parse(text, keys=[KEY[::-1]], domain="bounces.test") is None
    assert verp.parse(text, keys=[KEY], domain="other.test") is None
    assert verp.parse(("b" if own else "n") + text[1:], keys=[KEY], domain="bounces.test") is None


@given(st.text(max_size=80))
def test_other_addresses_are_no_return_addresses(text):
    assert verp.parse(text, keys=[KEY], domain="bounces.test") is None
    assert verp.parse(text + "@bounces.test", keys=[KEY], domain="bounces.test") is None


def test_keys_are_made_once_and_rotated_with_the_old_ones_believed(tmp_path):
    path = tmp_path / "mail" / "verp.key"
    (first,) = keys.load(path)
    assert keys.load(path) == (first,) and path.stat().st_mode & 0o777 == 0o600
    address = verp.ReturnAddress(5, 0, own=False)
    text = verp.compose(address, key=first, domain="b.test")
    assert keys.rotate(path) == 2
    second, kept = keys.load(path)
    assert kept == first and second != first
    assert verp.parse(text, keys=(second, kept), domain="b.test") == address
    for _ in range(verp.KEYS_MAX):
        keys.rotate(path)
    assert len(keys.load(path)) == verp.KEYS_MAX and first not in keys.load(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_running_relay_takes_a_new_key_up_and_keeps_what_it_has_when_the_file_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    path = tmp_path / "mail" / "verp.key"
    known = keys.Keys(path)
    (first,) = known
    keys.rotate(path)
    assert len(known) == 2 and known[1] == first and known[0] == keys.load(path)[0]
    path.write_bytes(b"short")
    assert len(known) == 2
    path.unlink()
    assert list(known)[1:] == [first]
    assert not path.exists()


def test_a_key_that_root_makes_is_the_relays(tmp_path):
    os.chown(tmp_path, 12345, 12346)
    path = tmp_path / "mail" / "verp.key"
    keys.load(path)
    for place in (path, path.parent):
        assert (place.stat().st_uid, place.stat().st_gid) == (12345, 12346)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33), bytes(32 * (verp.KEYS_MAX + 1))])
def test_a_damaged_file_is_told_and_not_replaced(tmp_path, content):
    path = tmp_path / "verp.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        keys.load(path)
    assert path.read_bytes() == content
