"""Which mail goes first and may use the reserve of the quota: faults and fires, as the configuration's rules say. Pure.

A rule's parts must all match; one rule that does is enough.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloudside.config import UrgentRule
from cloudside.mail.message import readable, value

#: A device's header of any length must not keep the relay busy with somebody's regular expression.
_VALUE_MAX_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its expressions compiled. ``header``: a field's lower-case name and what its value must hold."""

    origins: frozenset[str]
    subject: re.Pattern[str] | None
    header: tuple[bytes, re.Pattern[str]] | None

    def matches(self, origin: str, subject: str, fields: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether all that is stated is so. ``fields`` as message.fields gives them."""
        if self.origins and origin not in self.origins:
            return False
        if self.subject is not None and not self.subject.search(subject):
            return False
        if self.header is None:
            return True
        wanted, pattern = self.header
        return any(name == wanted and pattern.search(_shown(field)) for name, field in fields)


def compiled(rules: Iterable[UrgentRule]) -> tuple[Rule, ...]:
    """The configuration's rules. Their expressions were checked when the configuration was read."""
    return tuple(_rule(rule) for rule in rules)


def urgent(rules: Sequence[Rule], origin: str, subject: str, fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether one of the rules says so."""
    return any(rule.matches(origin, subject, fields) for rule in rules)


def _rule(rule: UrgentRule) -> Rule:
    header = None
    if rule.header:
        name, _, expression = rule.header.partition(":")
        header = (name.strip().lower().encode(), re.compile(expression.strip(), re.IGNORECASE))
    subject = re.compile(rule.subject, re.IGNORECASE) if rule.subject else None
    return Rule(frozenset(rule.origins), subject, header)


def _shown(field: bytes) -> str:
    return readable(value(field)[:_VALUE_MAX_CHARS])
