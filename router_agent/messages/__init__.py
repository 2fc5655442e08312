"""What kyoten-agent itself says to a person at the router, in English and Japanese.

Problems that it reports travel as keys and parameters; their sentences are the cloud's. Same form as the cloud's
catalogues: gettext .po files, named parameters.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path

LANGUAGES = ("en", "ja")
_LOCALE_DIRECTORY = Path(__file__).parent / "locale"


@functools.cache
def catalogue(language: str) -> Mapping[str, str]:
    """All texts of one language."""
    # Not before a text is wanted: the agent starts without.
    import polib

    return {entry.msgid: entry.msgstr for entry in polib.pofile(str(_LOCALE_DIRECTORY / language / "agent-cli.po"))}


def preferred_language(environment: Mapping[str, str] = os.environ) -> str:
    """The terminal's language (LC_ALL, LC_MESSAGES, LANG as POSIX orders them); English when none fits."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = environment.get(variable, "")
        if value:
            language = value.split("_")[0].split(".")[0]
            return language if language in LANGUAGES else "en"
    return "en"


def text(key: str, params: Mapping[str, object] | None = None, *, language: str | None = None) -> str:
    """The message with its parameters; a key without a text yields key and parameters."""
    template = catalogue(language or preferred_language()).get(key)
    if template is None:
        return " ".join([key, *(f"{name}={value}" for name, value in (params or {}).items())])
    return template.format_map(dict(params or {}))
