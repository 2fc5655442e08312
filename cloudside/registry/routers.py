"""Routers as enrolled: the second factor, kept as a hash, and the SSH host key that remote work is held to."""

import hashlib
import hmac
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Router


def enrol(
    session: Session, caller: Caller, *, site_id: str, device_id: str, ssh_host_key: str, now: datetime
) -> Router:
    """Remember a site's router, in place of the one before. Only the device id's SHA-256 is kept.

    Raises InputError: unknown site.
    """
    site = sites.get(session, caller, site_id)
    router = session.get(Router, site.id) or Router(site_id=site.id)
    router.device_id_sha256 = hash_device_id(device_id)
    router.ssh_host_key = ssh_host_key
    router.enrolled_at = now
    session.add(router)
    session.flush()
    return router


def get(session: Session, caller: Caller, site_id: str) -> Router:
    """A site's router. Raises InputError: unknown site, or none enrolled."""
    site = sites.get(session, caller, site_id)
    router = session.get(Router, site.id)
    if router is None:
        raise InputError("registry.not-enrolled", site=site.id)
    return router


def elsewhere(session: Session, *, site_id: str, device_id_sha256: str) -> Router | None:
    """The router of another site, of any tenant, that has this device id. The service's own question: no caller."""
    query = select(Router).where(Router.device_id_sha256 == device_id_sha256, Router.site_id != site_id)
    return session.scalar(query.order_by(Router.enrolled_at.desc()).limit(1))


def release(session: Session, caller: Caller, site_id: str) -> Router | None:
    """Forget a site's router, so that it may be enrolled elsewhere; None: there was none. Raises InputError."""
    site = sites.get(session, caller, site_id)
    router = session.get(Router, site.id)
    if router is not None:
        session.delete(router)
        session.flush()
    return router


def proves_device_id(router: Router, device_id: str) -> bool:
    """Whether this is the device id the router got at enrolment; takes equally long either way."""
    return hmac.compare_digest(router.device_id_sha256, hash_device_id(device_id))


def hash_device_id(device_id: str) -> str:
    """What the registry keeps. A plain hash suffices: the id is 256 random bits, so it cannot be guessed."""
    return hashlib.sha256(device_id.encode()).hexdigest()
