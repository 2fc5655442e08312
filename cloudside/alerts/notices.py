"""What a notice to staff says: what happened, to what, why, and the commands to look closer. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudside.messages import text


@dataclass(frozen=True, slots=True)
class Notice:
    """Subject and body for a person."""

    subject: str
    body: str


def write(kind: str, subject: str, params: Mapping[str, Any], opened_at: datetime, *, language: str) -> Notice:
    """The notice of an incident; ``kind`` names its texts: ``alerts.<kind>-subject`` and ``alerts.<kind>-body``."""
    known = {**params, "subject": subject, "opened": f"{opened_at:%Y-%m-%d %H:%M:%S} UTC"}
    return Notice(
        text(f"alerts.{kind}-subject", known, language=language), text(f"alerts.{kind}-body", known, language=language)
    )
