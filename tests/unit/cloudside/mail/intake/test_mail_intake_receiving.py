"""The text of a mail in pieces: the end is CRLF.CRLF and nothing else, whatever the pieces are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.mail.intake.receiving import Bounds, Receiver
from cloudside.mail.message import has_bare_line_ends, split

LARGE = Bounds(1_000_000)
#: Octets that matter, and pieces that look like an end.
TEXT = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\0", b"a", b"Subject: x\r\n", b"x" * 500])
).map(b"".join)


def received(pieces, bounds=LARGE, *, normalise=True):
    """The receiver after its mail, and what came after it."""
    receiver = Receiver(bounds, normalise=normalise)
    pieces = list(pieces)
    while pieces and not receiver.ended:
        rest = receiver.feed(pieces.pop(0))
    assert receiver.ended
    receiver.finish()
    return receiver, rest + b"".join(pieces)


def reference(data):
    """What RFC 5321 4.5.2 says, line by line: the mail as it was sent, and the rest."""
    content = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        if end and line == b".":
            return content, data
        assert end
        content += line.removeprefix(b".") + end


@given(TEXT, st.lists(st.integers(1, 40)), TEXT)
def test_any_pieces_give_what_the_rfc_says(text, cuts, after):
    data = text + b"\r\n.\r\n" + after
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start : start + cut])
        start += cut
    pieces.append(data[start:])
    wanted, rest = reference(data)
    receiver, left = received(pieces, Bounds(1_000_000, line=0, head=0), normalise=False)
    assert (bytes(receiver.kept), left) == (wanted, rest)
    receiver, left = received(pieces, Bounds(1_000_000, line=0))
    kept = receiver.head + b"\r\n" + bytes(receiver.kept) if _parted(receiver, wanted) else None
    assert left == rest
    assert kept is None or kept == _normal(wanted)
    assert not has_bare_line_ends(bytes(receiver.kept)) and b"\0" not in receiver.kept


def _normal(content):
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content.replace(b"\0", b""))


def _parted(receiver, wanted):
    """Whether head and body were parted by an empty line, and nothing was split over NUL."""
    head, body = split(_normal(wanted))
    return b"\0" not in wanted and head + b"\r\n" + body == _normal(wanted)


#: After each of these another server may think the mail over (Longin, "SMTP Smuggling", 2023, and what followed it).
NO_ENDS = [
    b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\n", b"\n.\r", b"\r\n\0.\r\n",
    b"\r\n.\0\r\n", b"\r\n.\r\0\n", b"\r\0\n.\r\n", b"\r\n. \r\n", b"\r\n..\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
    b"\n\n.\n\n", b"\r\n\t.\r\n", b"\x85.\x85", b"\r\n.\x0b\n", b"\r\n.\x0c\r\n", b"\r\n .\r\n",
    b"\xe2\x80\xa8.\xe2\x80\xa8", b"=0D=0A.=0D=0A",
]  # fmt: skip
SMUGGLED = b"MAIL FROM:<admin@site.test>\r\nRCPT TO:<victim@customer.test>\r\nDATA\r\nsmuggled\r\n"


@pytest.mark.parametrize("no_end", NO_ENDS)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_nothing_else_ends_a_mail(no_end, piece):
    data = b"Subject: s\r\n\r\nbefore" + no_end + SMUGGLED + b"\r\n.\r\nQUIT\r\n"
    receiver, rest = received([data[at : at + piece] for at in range(0, len(data), piece)])
    assert rest == b"QUIT\r\n"
    body = bytes(receiver.kept)
    assert b"MAIL FROM:<admin@site.test>" in body
    # As it will be sent on, no server can find an end in it: there is CRLF only, and each dot at a line's start is
    # doubled by whoever sends it (RFC 5321 4.5.2).
    assert not has_bare_line_ends(body) and b"\0" not in body


@pytest.mark.parametrize(
    ("sent", "head", "body"),
    [
        (b"", b"", b""),
        (b"\r\n", b"", b""),
        (b"..\r\n", b"", b".\r\n"),
        (b"A: 1\r\n b\r\n\r\nx\r\n", b"A: 1\r\n b\r\n", b"x\r\n"),
        (b"A: 1\r\n\r\n", b"A: 1\r\n", b""),
        (b"A: 1\r\n", b"A: 1\r\n", b""),
        (b"A: 1\nB: 2\n\nx\r\n", b"A: 1\r\nB: 2\r\n", b"x\r\n"),
        (b"A: 1\r\nno header\r\n", b"A: 1\r\n", b"no header\r\n"),
        (b"plain text\r\n", b"", b"plain text\r\n"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_head_and_body(sent, head, body, piece):
    data = sent + b".\r\n"
    receiver, rest = received([data[at : at + piece] for at in range(0, len(data), piece)])
    assert (receiver.head, bytes(receiver.kept), rest, receiver.refusal) == (head, body, b"", "")


@pytest.mark.parametrize("piece", [1, 13, 400, 100_000])
@pytest.mark.parametrize("last", [998, 999])
def test_the_longest_line_counts_wherever_pieces_end(piece, last):
    data = b"short\r\n" * 200 + b"y" * last + b"\r\n" + b"short\r\n" * 3 + b".\r\n"
    receiver, _ = received([data[at : at + piece] for at in range(0, len(data), piece)], Bounds(1_000_000, head=0))
    assert receiver.refusal[:3] == ("554" if last == 999 else "")


def test_of_what_is_too_large_nothing_is_kept():
    receiver = Receiver(Bounds(10_000), normalise=True)
    for _ in range(100):
        receiver.feed(b"x" * 65_536)
        assert len(receiver.kept) <= 10_000
    assert receiver.feed(b"\r\n.\r\nrest") == b"rest"
    assert receiver.refusal.startswith("552")


def test_a_head_is_found_only_when_it_is_certain():
    receiver = Receiver(LARGE, normalise=True)
    for piece, known in ((b"A: 1\r", False), (b"\nB", False), (b": 2\r\n", False), (b"\r", False), (b"\nx", True)):
        receiver.feed(piece)
        assert receiver.find_head() is known
    receiver.feed(b"y\r\nz")
    assert receiver.find_head() and receiver.head == b"A: 1\r\nB: 2\r\n"
    assert receiver.drain() == b"xy\r\nz" and not receiver.kept
