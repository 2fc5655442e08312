"""The response to a challenge at a router's serial console, for whoever may open visits on its site.

Works without a line to the router: that is what it is for. The response is worked out from the service's console key
and the site's public key (firmware.console); who was given it stands in the registry, and so in the audit log.
"""

from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from cloudside.access import refusal
from cloudside.access.target import site_state
from cloudside.errors import InputError, RefusedError
from cloudside.pki import console_key, issuing
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates, console_answers, sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site
from firmware import console
from firmware.console import Challenge, CheckError, MalformedError


@dataclass(frozen=True, slots=True)
class Answer:
    """``challenge`` and ``response`` as they are said."""

    site: str
    challenge: str
    response: str = field(repr=False)


def answer(
    session: Session,
    caller: Caller,
    store: KeyStore,
    site_id: str,
    challenge_text: str,
    *,
    reason: str,
    person: str,
    now: datetime,
) -> Answer:
    """Work the response out and note who gets it. One writing session.

    Raises InputError: unknown site, a challenge that is none, mistyped, or not this router's. RefusedError: the site is
    revoked, or has no key. ConfigurationError: the console key is missing, damaged or open to others.
    """
    site = sites.get(session, caller, site_id)
    challenge = _read(challenge_text)
    refusal.require_in_service(site_state(session, caller, site))
    private = store.read_key(console_key.NAME)
    keys = _keys(session, site)
    if not keys:
        raise RefusedError("access.console-no-key", site=site.id)
    own = private.public_key()
    meant = next((key for key in keys if console.tag(key, own) == challenge.tag), None)
    if meant is None:
        raise InputError("access.console-other-key", site=site.id, challenge=challenge.text)
    given = console.response(console.secret(private, meant, own), site.id, challenge)
    console_answers.add(
        session, caller, site_id=site.id, challenge=challenge.text, reason=reason, person=person, now=now
    )
    return Answer(site.id, challenge.text, given)


def _read(text: str) -> Challenge:
    try:
        return console.parse_challenge(text)
    except MalformedError:
        raise InputError("access.console-malformed", given=text[:40], signs=console.TEXT_SIGNS) from None
    except CheckError:
        raise InputError("access.console-mistyped", given=text[:40]) from None


def _keys(session: Session, site: Site) -> list[ec.EllipticCurvePublicKey]:
    """Public keys of the site's certificates, newest first. An expired one counts: a router that was off for long is
    the one that somebody stands at. A revoked one does not."""
    name = issuing.tenant_authority_name(site.tenant_id)
    found = certificates.standing(session, authority=name, kind="site", subject=site.id)
    keys = (issuing.parse(record).public_key() for record in found)
    return [key for key in keys if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)]
