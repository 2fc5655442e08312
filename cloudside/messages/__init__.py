"""Every text a person reads, by key, in English and Japanese.

Catalogues are gettext .po files, ``locale/<language>/<area>.po``: one a package, the message id is ``area.key`` and the
text has named parameters, ``{site}``. A test holds the two languages to the same keys and the same parameters.
Programs never parse these texts: they read the key and the parameters.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import polib

from cloudside.errors import InputErrors, KyotenError

LANGUAGES = ("en", "ja")
_LOCALE_DIRECTORY = Path(__file__).parent / "locale"


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All texts of one language: message id -> text with named parameters."""
    texts: dict[str, str] = {}
    for path in sorted((_LOCALE_DIRECTORY / language).glob("*.po")):
        for entry in polib.pofile(str(path)):
            texts[entry.msgid] = entry.msgstr
    return texts


def preferred_language(environment: Mapping[str, str] = os.environ) -> str:
    """The language of a terminal, from LC_ALL, LC_MESSAGES, LANG as POSIX orders them; English when none fits."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = environment.get(variable, "")
        if value:
            language = value.split("_")[0].split(".")[0]
            return language if language in LANGUAGES else "en"
    return "en"


def text(key: str, params: Mapping[str, object] | None = None, *, language: str | None = None) -> str:
    """The message for ``key`` with its parameters filled in.

    A key without a text, or a text without a parameter, yields the key and the parameters: an unreadable alarm is
    still better than none.
    """
    template = catalogue(language or preferred_language()).get(key)
    if template is not None:
        try:
            return template.format_map(dict(params or {}))
        except KeyError:
            pass
    return " ".join([key, *(f"{name}={value}" for name, value in (params or {}).items())])


def error_text(error: KyotenError, *, language: str | None = None) -> str:
    """What a person reads of an error: one line, or a line for each problem when there are several."""
    problems = error.problems if isinstance(error, InputErrors) else (error,)
    return "\n".join(text(problem.key, problem.params, language=language) for problem in problems)
