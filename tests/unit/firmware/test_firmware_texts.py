"""Every error of the firmware package can be told to a person, with the parameters that its text needs."""

import ast
import string
from functools import cache
from pathlib import Path

import pytest

import firmware
from cloudside.messages import catalogue

_SOURCES = Path(firmware.__file__).parent
#: Functions that take a key and parameters and make an error of them; of `Fields`, the place comes by itself.
_MAKERS = ("Error", "add", "matching", "texts")


@cache
def _keys() -> dict[str, set[str]]:
    """Each key in the sources and the parameters of its calls; what is given on (matching, texts) has its place."""
    found: dict[str, set[str]] = {}
    for path in sorted(_SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            for argument in node.args:
                if not (isinstance(argument, ast.Constant) and str(argument.value).startswith("firmware.")):
                    continue
                if not name.endswith(_MAKERS) and name != "say":
                    continue
                params = {keyword.arg for keyword in node.keywords if keyword.arg}
                found[argument.value] = params | (set() if name.endswith("Error") else {"place"})
    return found


def test_the_search_finds_keys() -> None:
    keys = _keys()
    assert {"firmware.counter-rollback", "firmware.not-a-hash", "firmware.below-threshold"} <= set(keys)
    assert keys["firmware.chunk-count"] == {"place", "wanted", "found"}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_key_has_a_text(language: str) -> None:
    assert set(_keys()) - set(catalogue(language)) == set()


def test_every_text_gets_its_parameters() -> None:
    lacking = {}
    for key, params in _keys().items():
        if key in ("firmware.packing-delta", "firmware.delta-not-worth-it"):
            continue  # given as a mapping
        wanted = {name for _, name, _, _ in string.Formatter().parse(catalogue("en")[key]) if name}
        if wanted - params:
            lacking[key] = wanted - params
    assert lacking == {}
