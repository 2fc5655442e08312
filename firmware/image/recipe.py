"""The recipe of an image: what goes into it and what is taken out again. Pure: text to a typed object.

suite      Debian's release
packages   what is installed; purge: what was needed for installing only; remove: paths (globs) that go
python     Python packages beside the agent; their versions stand in constraints.txt
modules    kernel modules that are kept: a directory of the kernel's tree with a slash at its end, or a module's name
services   units that are enabled; masked: units that never start
[hardware.NAME]   architecture, kernel package, and further packages and modules of one kind of machine
"""

import re
import tomllib
from dataclasses import dataclass
from typing import cast

from firmware.image.errors import RecipeError

_LISTS = ("packages", "purge", "remove", "python", "modules", "masked")
_HARDWARE_KEYS = frozenset({"architecture", "kernel", "packages", "modules"})
#: Debian policy, section 5.6.7; Python's names are a subset of it once they are lower case.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
#: What a release document takes as a hardware's name.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")

#: Debian's architectures that are built for -> the word in Python's wheels and in a triplet.
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about one kind of hardware's image."""

    hardware: str
    suite: str
    architecture: str
    kernel: str
    packages: tuple[str, ...]
    purge: tuple[str, ...]
    remove: tuple[str, ...]
    python: tuple[str, ...]
    modules: tuple[str, ...]
    masked: tuple[str, ...]


def parse(text: str, hardware: str) -> Recipe:
    """The recipe for one kind of hardware. Raises RecipeError with everything that is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([f"recipe: not TOML: {error}"]) from None
    problems: list[str] = []
    tables = document.pop("hardware", {})
    suite = _word(document, "suite", problems)
    lists = {name: _words(document, name, "recipe", problems) for name in _LISTS}
    problems += [f"recipe: unknown key {name!r}" for name in document]
    if not isinstance(tables, dict) or not isinstance(tables.get(hardware), dict) or not _NAME.match(hardware):
        known = ", ".join(sorted(tables)) if isinstance(tables, dict) else "none"
        raise RecipeError([*problems, f"recipe: no hardware {hardware!r}; there are: {known}"])
    table = dict(tables[hardware])
    place = f"hardware.{hardware}"
    architecture, kernel = _word(table, "architecture", problems), _word(table, "kernel", problems)
    if architecture and architecture not in ARCHITECTURES:
        problems.append(f"{place}: architecture {architecture!r} is none of {', '.join(ARCHITECTURES)}")
    own = {name: _words(table, name, place, problems) for name in ("packages", "modules")}
    problems += [f"{place}: unknown key {name!r}" for name in table]
    packages = (*lists["packages"], *own["packages"], *((kernel,) if kernel else ()))
    for name in (*packages, *lists["purge"], *lists["python"]):
        if not _PACKAGE.match(name):
            problems.append(f"recipe: {name!r} is not a package's name")
    problems += [
        f"recipe: remove wants paths from the root without '..': {path!r}"
        for path in lists["remove"]
        if not _inside(path)
    ]
    if problems:
        raise RecipeError(problems)
    return Recipe(
        hardware=hardware,
        suite=suite,
        architecture=architecture,
        kernel=kernel,
        packages=packages,
        purge=lists["purge"],
        remove=lists["remove"],
        python=lists["python"],
        modules=(*lists["modules"], *own["modules"]),
        masked=lists["masked"],
    )


def hardware_names(text: str) -> tuple[str, ...]:
    """Every kind of hardware that the recipe knows. Raises RecipeError."""
    try:
        return tuple(tomllib.loads(text).get("hardware", {}))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([f"recipe: not TOML: {error}"]) from None


def suite(text: str) -> str:
    """Debian's release. Raises RecipeError."""
    problems: list[str] = []
    found = _word(tomllib.loads(text), "suite", problems)
    if problems:
        raise RecipeError(problems)
    return found


def constraints(text: str) -> dict[str, str]:
    """Name (lower case, hyphens) -> version, of pip's constraints file. Raises RecipeError."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for line in text.splitlines():
        word = line.partition("#")[0].strip()
        name, equals, version = word.partition("==")
        if word and not (equals and version):
            problems.append(f"constraints: {word!r} names no exact version")
        elif word:
            found[re.sub(r"[-_.]+", "-", name).lower()] = version
    if problems:
        raise RecipeError(problems)
    return found


def lines(text: str) -> tuple[str, ...]:
    """The lines of a list file, without comments and empty ones."""
    words = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(word for word in words if word)


def _word(table: dict[str, object], name: str, problems: list[str]) -> str:
    value = table.pop(name, None)
    if not isinstance(value, str) or not _PACKAGE.match(value):
        problems.append(f"recipe: {name} is missing or not a word")
        return ""
    return value


def _words(table: dict[str, object], name: str, place: str, problems: list[str]) -> tuple[str, ...]:
    value = table.pop(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        problems.append(f"{place}: {name} is not a list of texts")
        return ()
    words = cast(list[str], value)
    problems += [f"{place}: {name} has {word!r} twice" for word in sorted(set(words)) if words.count(word) > 1]
    return tuple(words)


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")
