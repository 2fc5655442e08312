"""Every text exists in both languages with the same parameters, and every error raised in the sources has one."""

import ast
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polib
import pytest

import cloudside
from cloudside.errors import InputError, InputErrors, KyotenError
from cloudside.messages import LANGUAGES, catalogue, error_text, preferred_language, text

_SOURCES = Path(cloudside.__file__).parent
_LOCALE = _SOURCES / "messages" / "locale"


@dataclass(frozen=True)
class Raised:
    """A place in the sources that makes an error: its key, and the parameters where all can be read off."""

    place: str
    key: str
    params: frozenset[str] | None


def _params(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(_SOURCES.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def _error_classes() -> set[str]:
    """Names of KyotenError and all classes below it, found in the sources without importing daemons."""
    found = {"KyotenError"}
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def _raised() -> Iterator[Raised]:
    classes = _error_classes()
    for path, tree in _trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            first = node.args[0]
            if name in classes and isinstance(first, ast.Constant) and isinstance(first.value, str):
                given = {keyword.arg for keyword in node.keywords}
                params = None if None in given else frozenset(name for name in given if name is not None)
                yield Raised(f"{path.relative_to(_SOURCES)}:{node.lineno}", first.value, params)


def test_the_search_finds_errors() -> None:
    found = {raised.key for raised in _raised()}
    assert {"registry.unknown-site", "config.invalid", "pki.key-missing"} <= found
    assert {"InputErrors", "UnavailableError"} <= _error_classes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_error_in_the_sources_has_a_text(language: str) -> None:
    texts = catalogue(language)
    assert [raised for raised in _raised() if raised.key not in texts] == []


def test_every_error_gives_the_parameters_its_text_needs() -> None:
    texts = catalogue("en")
    lacking = [
        (raised, missing)
        for raised in _raised()
        if raised.params is not None and (missing := _params(texts.get(raised.key, "")) - raised.params)
    ]
    assert lacking == []


def test_languages_have_the_same_keys_and_parameters() -> None:
    english, japanese = catalogue("en"), catalogue("ja")
    assert set(english) == set(japanese)
    assert [key for key in english if _params(english[key]) != _params(japanese[key])] == []


@pytest.mark.parametrize("path", sorted(_LOCALE.rglob("*.po")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_catalogue_files_are_in_order(path: Path) -> None:
    entries = polib.pofile(str(path))
    assert entries.metadata["Content-Type"] == "text/plain; charset=UTF-8"
    assert entries.metadata["Language"] == path.parent.name
    keys = [entry.msgid for entry in entries]
    assert len(set(keys)) == len(keys)
    assert [key for key in keys if not key.startswith(f"{path.stem}.")] == []
    assert [entry.msgid for entry in entries if not entry.msgstr or entry.fuzzy] == []
    assert (_LOCALE / ("ja" if path.parent.name == "en" else "en") / path.name).exists()


def test_japanese_texts_are_japanese() -> None:
    def words(shown: str) -> list[str]:
        return "".join(literal for literal, *_ in string.Formatter().parse(shown)).split()

    # A heading like "LAN" is the same in both languages; a sentence is not.
    assert [key for key, shown in catalogue("ja").items() if shown.isascii() and len(words(shown)) > 2] == []


def test_text_is_filled_in() -> None:
    params = {"site": "tokio-1", "known": "tokyo-1"}
    assert "tokio-1" in text("registry.unknown-site", params, language="en")
    assert "拠点「tokio-1」はありません" in text("registry.unknown-site", params, language="ja")


def test_unknown_key_or_missing_parameter_still_says_something() -> None:
    assert text("no.such", {"a": 1}, language="en") == "no.such a=1"
    assert text("registry.unknown-site", {"site": "x"}, language="en") == "registry.unknown-site site=x"


def test_several_problems_are_a_line_each() -> None:
    problems = [InputError("registry.tenant-exists", tenant="acme"), InputError("registry.not-a-prefix", prefix="x")]
    shown = error_text(InputErrors(problems), language="en").splitlines()
    assert len(shown) == 2
    assert "acme" in shown[0]
    assert error_text(KyotenError("no.such"), language="ja") == "no.such"


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja"}, "ja"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
        ({"LC_ALL": "C", "LANG": "ja_JP.UTF-8"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "ja_JP", "LANG": "en_US"}, "ja"),
    ],
)
def test_language_of_a_terminal(environment: dict[str, str], language: str) -> None:
    assert preferred_language(environment) == language
