"""The serial console in heartbeats: routers get the service's console key, and say who logged in.

While somebody is logged in, and until the router has said that it is over, there is an incident: it says whom the
response was given to. The registry's own record of that is in registry.console_answers.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from cloudside.alerts import incidents
from cloudside.fleet.protocol import ConsoleLogin, ConsoleState
from cloudside.pki.console_key import fingerprint
from cloudside.registry import console_answers
from cloudside.registry.callers import OPERATOR

KIND = "console-login"


def key_for(state: ConsoleState | None, published: str | None) -> str | None:
    """The console key that a router is to be told; None: it has that one, has no use for it, or there is none."""
    if state is None or published is None or state.key == fingerprint(published):
        return None
    return published


def is_news(session: Session, site_id: str, state: ConsoleState | None) -> bool:
    """Whether to call `note`: somebody is or was logged in, or what was noted is over."""
    if state is None:
        return False
    return bool(state.logins) or incidents.is_open(session, KIND, site_id)


def note(session: Session, site_id: str, state: ConsoleState, now: datetime) -> None:
    """Open the incident of a login, or end it. Repeating it changes nothing. One writing session."""
    if not state.logins:
        incidents.close_incident(session, KIND, site_id, now)
        return
    params = [_told(session, site_id, login, now) for login in state.logins]
    incidents.open_incident(session, KIND, site_id, params[-1], now)


def _told(session: Session, site_id: str, login: ConsoleLogin, now: datetime) -> dict[str, str]:
    challenge = login.challenge[:20]
    given = console_answers.mark_used(session, OPERATOR, site_id=site_id, challenge=challenge, now=now)
    return {
        "site": site_id,
        "at": login.at or "-",
        "challenge": challenge or "-",
        "person": "-" if given is None else given.answered_by,
        "reason": "-" if given is None else given.reason or "-",
    }
