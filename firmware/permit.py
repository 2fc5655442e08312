"""Downgrade permits: a small document by which the holders of the targets keys let a device go back. Pure.

It names one step, from one counter to a lower one, for one site or all, of one kind of hardware, and ends soon. Within
its life it can be used again; it opens nothing but that step. Its text is put into the offer, and the device holds it
against the targets keys of the root that counts then.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Protocol

from securesystemslib.signer import Signature, Signer
from tuf.api.metadata import Root, Targets

from firmware.errors import TrustError
from firmware.fields import Fields, instant, read_object, write_object
from firmware.keymaterial import holder
from firmware.release import COUNTER_MAX

#: What is signed begins with this, so that a signature can be taken for nothing else and nothing else for one.
KIND = "kyoten-downgrade-permit"
FORMAT = 1
PERMIT_MAX_BYTES = 8192
SIGNATURES_MAX = 16
#: Longer than a rollout takes, shorter than anybody forgets.
LIFE_MAX_S = 30 * 86400

_SITE = re.compile(r"(\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)\Z", re.ASCII)
_HEX = re.compile(r"([0-9a-f]{2}){1,512}\Z", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{8,64}\Z", re.ASCII)

#: All sites.
EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Permit:
    """From exactly ``from_counter`` to exactly ``to_counter``, until ``expires`` (UTC), at ``site`` or everywhere."""

    site: str
    hardware: str
    from_counter: int
    to_counter: int
    expires: str


@dataclass(frozen=True, slots=True)
class SignedPermit:
    """A permit and who has signed it so far: hexadecimal signatures by key id."""

    permit: Permit
    signatures: Mapping[str, str]


class Device(Protocol):
    """What a permit is held against."""

    @property
    def hardware(self) -> str:
        """The kind of hardware."""
        ...

    @property
    def counter(self) -> int:
        """Of the release that was last committed."""
        ...


def parse(data: bytes) -> SignedPermit:
    """Read one. Raises ReleaseError with everything that is wrong."""
    fields = read_object(data, maximum=PERMIT_MAX_BYTES)
    inner = fields.inner("permit")
    if (inner.text("kind"), inner.number("format")) != (KIND, FORMAT):
        inner.add("firmware.other-format", "format", known=FORMAT)
    permit = Permit(
        site=inner.matching("site", _SITE, "firmware.not-a-name"),
        hardware=inner.name("hardware"),
        from_counter=inner.number("from_counter", 1, COUNTER_MAX),
        to_counter=inner.number("to_counter", 1, COUNTER_MAX),
        expires=inner.time("expires"),
    )
    inner.end()
    signatures = dict(fields.each("signatures", _signature, maximum=SIGNATURES_MAX))
    fields.end()
    fields.problems.finish()
    return SignedPermit(permit, signatures)


def render(signed: SignedPermit) -> bytes:
    """Its text."""
    signatures = [{"keyid": keyid, "sig": sig} for keyid, sig in sorted(signed.signatures.items())]
    return write_object({"permit": _document(signed.permit), "signatures": signatures})


def payload(permit: Permit) -> bytes:
    """What is signed."""
    return write_object(_document(permit))


def sign(signed: SignedPermit, signer: Signer) -> SignedPermit:
    """The same with one more holder's signature."""
    made = signer.sign(payload(signed.permit))
    return SignedPermit(signed.permit, {**signed.signatures, made.keyid: made.signature})


def missing(signed: SignedPermit, root: Root) -> tuple[int, tuple[str, ...]]:
    """How many signatures of targets keys are missing, and who could give them."""
    signatures = {keyid: Signature(keyid, sig) for keyid, sig in signed.signatures.items()}
    result = root.get_verification_result(Targets.type, payload(signed.permit), signatures)
    return result.missing, tuple(sorted(holder(key) for key in result.unsigned.values()))


def verified(data: bytes, root: Root, *, site: str, device: Device, at: datetime) -> Permit:
    """A permit that holds for this site and device at this instant.

    Raises ReleaseError: it cannot be read; TrustError: signatures, site, hardware, counters, time.
    """
    signed = parse(data)
    permit = signed.permit
    if missing(signed, root)[0]:
        raise TrustError("firmware.permit-unsigned")
    if permit.site not in (EVERYWHERE, site) or permit.hardware != device.hardware:
        raise TrustError("firmware.permit-elsewhere", site=permit.site, hardware=permit.hardware)
    if permit.from_counter != device.counter:
        raise TrustError("firmware.permit-other-counter", counter=permit.from_counter, installed=device.counter)
    if at >= instant(permit.expires):
        raise TrustError("firmware.permit-expired", expires=permit.expires)
    return permit


def _document(permit: Permit) -> Mapping[str, object]:
    return {"kind": KIND, "format": FORMAT, **asdict(permit)}


def _signature(fields: Fields) -> tuple[str, str]:
    found = (
        fields.matching("keyid", _KEY_ID, "firmware.not-a-hash"),
        fields.matching("sig", _HEX, "firmware.not-a-hash"),
    )
    fields.end()
    return found
