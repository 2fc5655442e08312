"""Drafts of a site's settings: prepared by one person, seen by others, applied or thrown away. One a site."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import settings, sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Settings, SettingsDraft


def find(session: Session, caller: Caller, site_id: str) -> SettingsDraft | None:
    """The site's draft; None: there is none. Raises InputError: unknown site."""
    return session.get(SettingsDraft, sites.get(session, caller, site_id).id)


def get(session: Session, caller: Caller, site_id: str) -> SettingsDraft:
    """The site's draft. Raises InputError: unknown site, or it has none."""
    found = find(session, caller, site_id)
    if found is None:
        raise InputError("settings.no-draft", site=site_id)
    return found


def add(
    session: Session, caller: Caller, *, site_id: str, changes: Mapping[str, Any], author: str, now: datetime
) -> SettingsDraft:
    """Put changes into the site's draft, beside those that it has; None takes a key out of the settings.

    Raises InputError: unknown site.
    """
    now_wanted = settings.wanted(session, caller, site_id)
    draft = find(session, caller, site_id)
    if draft is None:
        draft = SettingsDraft(site_id=site_id, changes={}, base={})
        session.add(draft)
    new = [key for key in changes if key not in draft.changes]
    draft.changes = {**draft.changes, **changes}
    draft.base = {**draft.base, **{key: now_wanted[key] for key in new if key in now_wanted}}
    draft.author = author[:100]
    draft.updated_at = now
    session.flush()
    return draft


def moved(draft: SettingsDraft, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the draft that somebody else has changed since they were drafted, to something else than the draft."""
    return tuple(
        sorted(
            key
            for key, value in draft.changes.items()
            if wanted.get(key) != draft.base.get(key) and wanted.get(key) != value
        )
    )


def apply(
    session: Session, caller: Caller, *, site_id: str, author: str, overwrite: bool, now: datetime
) -> Settings | None:
    """State the draft as the site's settings and end it. None: they are so already, nothing was stated.

    Raises InputError: unknown site, no draft, or, unless ``overwrite``, somebody else changed the same keys meanwhile.
    """
    draft = get(session, caller, site_id)
    before = settings.wanted(session, caller, site_id)
    if not overwrite and (others := moved(draft, before)):
        raise InputError("settings.draft-moved", site=site_id, names=", ".join(others))
    after = settings.changed(before, draft.changes)
    stated = None
    if after != before:
        stated = settings.add_version(session, caller, site_id=site_id, values=after, author=author, now=now)
    session.delete(draft)
    session.flush()
    return stated


def discard(session: Session, caller: Caller, *, site_id: str) -> SettingsDraft:
    """Throw the draft away. Raises InputError: unknown site, or it has none."""
    draft = get(session, caller, site_id)
    session.delete(draft)
    session.flush()
    return draft
