"""What a change of settings changes. Pure; secrets are compared and never shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudside.registry.settings import HIDDEN, SECRET_KEYS


@dataclass(frozen=True, slots=True)
class Difference:
    """One key. None: the router's own default."""

    key: str
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The keys whose values differ, by name."""
    return tuple(
        Difference(key, _shown(key, before.get(key)), _shown(key, after.get(key)))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )


def _shown(key: str, value: Any) -> Any:
    return HIDDEN if key in SECRET_KEYS and value is not None else value
