"""Challenge and response at the console: the form that people say, and whose response fits."""

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware import console
from firmware.console import Challenge, CheckError, Kind, MalformedError

#: Private scalars: a site's, the service's, and strangers'.
SITE_KEY, CONSOLE_KEY, OTHER_KEY = (ec.derive_private_key(1000 + number, ec.SECP256R1()) for number in range(3))
SITE = "tokyo-1"

#: The shared vector: what both halves have to find, worked out once.
VECTOR_CHALLENGE = Challenge(nonce=0x0123456789, tag=console.tag(SITE_KEY.public_key(), CONSOLE_KEY.public_key()))

nonces = st.integers(0, (1 << console.NONCE_BITS) - 1)
values = st.integers(0, (1 << console.DATA_BITS) - 1)
kinds = st.sampled_from(list(Kind))


def secret(own: ec.EllipticCurvePrivateKey = SITE_KEY) -> bytes:
    return console.secret(own, SITE_KEY.public_key(), CONSOLE_KEY.public_key())


def test_the_shared_vector_is_what_it_always_was() -> None:
    assert VECTOR_CHALLENGE.text == "04HM-ASW9-GWVV"
    for own in (SITE_KEY, CONSOLE_KEY):
        assert console.response(secret(own), SITE, VECTOR_CHALLENGE) == "XN7S-ESPV-V8AQ"


def test_a_third_key_has_no_part_in_it() -> None:
    with pytest.raises(ValueError, match="neither"):
        secret(OTHER_KEY)


@given(kinds, values)
def test_what_is_written_can_be_read_however_it_is_typed(kind: Kind, value: int) -> None:
    text = console.write(kind, value)
    assert len(text) == console.TEXT_SIGNS + 2
    sloppy = text.lower().replace("-", " ").replace("0", "o").replace("1", "l").replace("v", "u")
    assert console.read(kind, text) == console.read(kind, sloppy) == value


@given(kinds, values, st.integers(0, console.TEXT_SIGNS - 1), st.integers(1, 31))
def test_one_wrong_sign_is_noticed(kind: Kind, value: int, place: int, step: int) -> None:
    signs = list(console.write(kind, value).replace("-", ""))
    signs[place] = console.SIGNS[(console.SIGNS.index(signs[place]) + step) % 32]
    with pytest.raises(CheckError):
        console.read(kind, "".join(signs))


@given(kinds, values)
def test_two_exchanged_signs_are_noticed(kind: Kind, value: int) -> None:
    plain = console.write(kind, value).replace("-", "")
    for one, other in itertools.combinations(range(console.TEXT_SIGNS), 2):
        signs = list(plain)
        signs[one], signs[other] = signs[other], signs[one]
        if signs[one] != signs[other]:
            with pytest.raises(CheckError):
                console.read(kind, "".join(signs))


@given(values)
def test_a_challenge_is_no_response(value: int) -> None:
    with pytest.raises(CheckError):
        console.read(Kind.RESPONSE, console.write(Kind.CHALLENGE, value))


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_our_words(text: str) -> None:
    try:
        value = console.read(Kind.CHALLENGE, text)
    except (MalformedError, CheckError):
        return
    assert 0 <= value < 1 << console.DATA_BITS


@pytest.mark.parametrize("text", ["", "0123", "0123-4567-89AB-CDEF", "0123-4567-89A*", "0123-4567-89Aé"])
def test_what_has_another_form_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        console.read(Kind.CHALLENGE, text)


@settings(max_examples=200)
@given(nonces, nonces, st.sampled_from(["tokyo-1", "tokyo-2", "tokyo-11", "osaka-1"]), st.integers(2, 40))
def test_no_other_site_challenge_or_key_has_this_response(nonce: int, other: int, name: str, scalar: int) -> None:
    challenge = Challenge(nonce, VECTOR_CHALLENGE.tag)
    good = console.response(secret(), SITE, challenge)
    assert console.fits(secret(CONSOLE_KEY), SITE, challenge, good)
    stranger = ec.derive_private_key(scalar, ec.SECP256R1())
    theirs = console.secret(stranger, stranger.public_key(), CONSOLE_KEY.public_key())
    assert not console.fits(theirs, SITE, challenge, good)
    rolled = console.secret(SITE_KEY, SITE_KEY.public_key(), stranger.public_key())
    assert not console.fits(rolled, SITE, challenge, good)
    if name != SITE:
        assert not console.fits(secret(), name, challenge, good)
    if other != nonce:
        assert not console.fits(secret(), SITE, Challenge(other, challenge.tag), good)
    assert not console.fits(secret(), SITE, Challenge(nonce, challenge.tag ^ 1), good)


def test_keys_of_two_curves_do_not_go_together() -> None:
    foreign = ec.derive_private_key(7, ec.SECP384R1())
    with pytest.raises(ValueError, match="curve"):
        console.secret(foreign, foreign.public_key(), CONSOLE_KEY.public_key())


def test_a_tag_names_the_pair_of_keys() -> None:
    site, service, other = (key.public_key() for key in (SITE_KEY, CONSOLE_KEY, OTHER_KEY))
    tags = {console.tag(site, service), console.tag(other, service), console.tag(site, other)}
    assert len(tags) == 3
    assert all(0 <= one < 1 << console.TAG_BITS for one in tags)
