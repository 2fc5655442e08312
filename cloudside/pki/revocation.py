"""Revoked sites, and revocation lists that never run out. Telling the gateways (doorbell) is the caller's business."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import ConfigurationError
from cloudside.pki import issuing, revocation_lists
from cloudside.pki.authority import REVOCATION_LIST_LIFETIME, ROOT_LIST_LIFETIME
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates, routers, sites, tokens
from cloudside.registry.callers import Caller
from cloudside.registry.tables import RevocationList, Site

#: A list is renewed this long before it ends: an authority's key may be away for a weekend.
RENEW_BEFORE = timedelta(days=4)
#: The root's own, and when its absent key becomes trouble.
ROOT_RENEW_BEFORE = timedelta(days=122)
ROOT_ALARM_BEFORE = timedelta(days=30)
#: Machines' clocks may differ by this much; a root's machine has its own.
CLOCKS_DIFFER = timedelta(days=1)


def revoke_site(session: Session, config: Config, caller: Caller, *, site_id: str, now: datetime) -> Site:
    """Shut a site out for good: mark it, revoke its certificates, sign a new list. Repeating it changes nothing more.

    Raises InputError: unknown site, or another tenant's. ConfigurationError: the authority's key is missing or damaged;
    nothing is revoked then.
    """
    site = sites.get(session, caller, site_id)
    if site.revoked_at is None:
        site.revoked_at = now
    tokens.withdraw(session, caller, site_id=site.id, now=now)
    revoke_certificates(session, KeyStore.of(config), site=site, now=now)
    session.flush()
    return site


def revoke_certificates(session: Session, store: KeyStore, *, site: Site, now: datetime) -> int:
    """Revoke a site's certificates and, if there are any, sign a new list. Returns how many there were."""
    name = issuing.tenant_authority_name(site.tenant_id)
    revoked = certificates.revoke_all(session, authority=name, kind="site", subject=site.id, now=now)
    if revoked:
        revocation_lists.renew(session, issuing.load_authority(session, store, name), now=now)
    return len(revoked)


def release_router(session: Session, config: Config, caller: Caller, *, site_id: str, now: datetime) -> int:
    """Forget a site's router and revoke its certificates; how many. Its device id may then be enrolled elsewhere.

    Raises as revoke_site does.
    """
    site = sites.get(session, caller, site_id)
    tokens.withdraw(session, caller, site_id=site.id, now=now)
    routers.release(session, caller, site.id)
    return revoke_certificates(session, KeyStore.of(config), site=site, now=now)


@dataclass(frozen=True, slots=True)
class Renewed:
    """New lists, and why others that end soon could not be signed. The new ones count whatever became of the others."""

    lists: tuple[RevocationList, ...]
    troubles: tuple[ConfigurationError, ...]


def renew_expiring(session: Session, config: Config, *, now: datetime) -> Renewed:
    """Sign new lists in place of those that end soon.

    The root's list is good for a year and is renewed from a third before its end, whenever its key is here; that the
    key is away is trouble only from ROOT_ALARM_BEFORE on. A list that is good for longer than any of ours was signed by
    a clock that was ahead. It lacks what was revoked and had ended by that clock, so it is signed again.
    """
    store = KeyStore.of(config)
    renewed: list[RevocationList] = []
    troubles: list[ConfigurationError] = []
    for kept in certificates.revocation_lists(session):
        is_root = kept.authority == issuing.ROOT
        latest = now + CLOCKS_DIFFER + (ROOT_LIST_LIFETIME if is_root else REVOCATION_LIST_LIFETIME)
        if now + (ROOT_RENEW_BEFORE if is_root else RENEW_BEFORE) < kept.next_update <= latest:
            continue
        try:
            signer = issuing.load_authority(session, store, kept.authority)
            renewed.append(revocation_lists.renew(session, signer, now=now))
        except ConfigurationError as error:
            waits = is_root and error.key == "pki.root-absent" and kept.next_update > now + ROOT_ALARM_BEFORE
            if not waits:
                troubles.append(error)
    return Renewed(tuple(renewed), tuple(troubles))
