import re
import string
from pathlib import Path

import rules
from cloudside.messages import catalogue


def _keys_in_code() -> set[str]:
    files = Path(rules.__file__).parent.glob("*.py")
    return {key for file in files for key in re.findall(r'"(rules\.[a-z0-9-]+)"', file.read_text(encoding="utf-8"))}


def test_every_problem_and_reason_has_a_text_in_both_languages_and_none_is_left_over() -> None:
    keys = _keys_in_code()
    assert len(keys) > 50
    for language in ("en", "ja"):
        assert {key for key in catalogue(language) if key.startswith("rules.")} == keys


def test_both_languages_have_the_same_parameters() -> None:
    def parameters(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text)} - {None}

    for key in _keys_in_code():
        assert parameters(catalogue("en")[key]) == parameters(catalogue("ja")[key])
