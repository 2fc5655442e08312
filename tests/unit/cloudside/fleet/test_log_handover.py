"""A log is one whole gzip member, bounded when unpacked."""

import gzip

import pytest

from cloudside.errors import InputError
from cloudside.fleet import handover


def test_a_log_is_accepted_and_read_back() -> None:
    text = "09:00 tunnel up\n" * 1000
    content = gzip.compress(text.encode())
    assert handover.check_log(content) == len(text)
    assert handover.read_log(content) == text


def test_bytes_that_are_no_text_still_show() -> None:
    assert handover.read_log(gzip.compress(b"a\xffb")) == "a\ufffdb"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text",
        gzip.compress(b"cut off" * 100)[:-9],
        gzip.compress(b"damaged" * 100)[:-8] + b"\0" * 8,
        gzip.compress(b"one") + gzip.compress(b"two"),
        gzip.compress(b"followed") + b"by junk",
    ],
    # gzip writes the time: without names the tests are called differently in each process.
    ids=["nothing", "plain", "cut", "damaged", "two", "followed"],
)
def test_what_is_not_one_gzip_is_refused(content: bytes) -> None:
    with pytest.raises(InputError) as refused:
        handover.check_log(content)
    assert refused.value.key == "fleet.log-not-gzip"


def test_the_bound_holds_to_the_byte() -> None:
    content = gzip.compress(bytes(1000))
    assert handover.check_log(content, unpacked_max_bytes=1000) == 1000
    with pytest.raises(InputError) as refused:
        handover.check_log(content, unpacked_max_bytes=999)
    assert refused.value.key == "fleet.log-too-large"
