"""The platform's file as written, every version kept. The highest version is in force. Operators' business alone."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloudside.registry.callers import Caller
from cloudside.registry.tables import PlatformPolicy


def add_version(
    session: Session, caller: Caller, *, text: str, file_name: str, author: str, now: datetime
) -> PlatformPolicy:
    """Put a file in force. The text was checked before (rules.parse): nothing is checked here.

    Raises RefusedError: the caller is not an operator.
    """
    caller.require_operator()
    newest = session.scalar(select(func.max(PlatformPolicy.version))) or 0
    policy = PlatformPolicy(
        version=newest + 1, text=text, file_name=file_name[-200:], author=author[:100], applied_at=now
    )
    session.add(policy)
    session.flush()
    return policy


def versions(session: Session, caller: Caller) -> list[PlatformPolicy]:
    """All versions, newest first. Raises RefusedError: the caller is not an operator."""
    caller.require_operator()
    return list(session.scalars(select(PlatformPolicy).order_by(PlatformPolicy.version.desc())))


def in_force(session: Session, caller: Caller) -> PlatformPolicy | None:
    """The version in force; None: none yet. Raises RefusedError: the caller is not an operator.

    Commands of tenants hold their policies against it too: inventory.platform_source gives it to our own code.
    """
    caller.require_operator()
    return session.scalar(select(PlatformPolicy).order_by(PlatformPolicy.version.desc()).limit(1))
