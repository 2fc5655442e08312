"""What a notice to staff says: what happened, to what, why, and the commands to look closer or to act. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cloudside.messages import text

#: In a digest, so many alarms are named.
DIGEST_LINES = 30


class Stage(StrEnum):
    """Of an incident: what the notice is about."""

    OPENED = "opened"
    #: It lasts, or has become worse.
    AGAIN = "again"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Notice:
    """Subject and body for a person."""

    subject: str
    body: str


def write(
    kind: str,
    subject: str,
    params: Mapping[str, Any],
    opened_at: datetime,
    *,
    language: str,
    stage: Stage = Stage.OPENED,
) -> Notice:
    """The notice of an incident; ``kind`` names its texts: ``alerts.<kind>-subject`` and ``alerts.<kind>-body``.

    A parameter ``<name>_key`` is the key of a text, which stands where the others say ``{name}``. ``commands`` is a
    list of (key of a text, command).
    """
    known = {**params, "subject": subject, "opened": f"{opened_at:%Y-%m-%d %H:%M:%S} UTC"}
    for name, value in params.items():
        if name.endswith("_key"):
            known[name.removesuffix("_key")] = text(str(value), known, language=language)
    known["commands"] = _commands(params.get("commands", ()), language)
    title = text(f"alerts.{kind}-subject", known, language=language)
    if stage is not Stage.OPENED:
        title = text(f"alerts.stage-{stage}", {"title": title}, language=language)
    return Notice(title, text(f"alerts.{kind}-body", known, language=language))


def digest(titles: Sequence[str], *, language: str) -> Notice:
    """One notice instead of many, when many are due at once."""
    shown = [f"- {title}" for title in titles[:DIGEST_LINES]]
    if len(titles) > DIGEST_LINES:
        shown.append("- ...")
    params = {"count": len(titles), "first": titles[0], "list": "\n".join(shown)}
    return Notice(
        text("alerts.several-subject", params, language=language),
        text("alerts.several-body", params, language=language),
    )


def _commands(commands: Sequence[Sequence[str]], language: str) -> str:
    # The command first and alone on its line: it is copied.
    return "\n".join(f"    {command}\n        {text(key, language=language)}" for key, command in commands)
