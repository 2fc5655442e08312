"""What is wrong, or why not: a key and parameters, never a sentence. The texts are in the catalogues under the key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rules.model import Place

Parameter = str | int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a packet is blocked."""

    key: str
    params: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake. ``file`` is empty and line and column 0 where it lies in the inventory and not in a policy file."""

    kind: str
    params: Mapping[str, Parameter] = field(default_factory=dict)
    file: str = ""
    line: int = 0
    column: int = 0

    @property
    def place(self) -> str:
        """``file:line:column``, or nothing."""
        return f"{self.file}:{self.line}:{self.column}" if self.file else ""


def problem(kind: str, place: Place, /, **params: Parameter) -> Problem:
    """A problem at ``place``."""
    return Problem(kind, params, place.file, place.line, place.column)


class PolicyError(Exception):
    """The policy or the inventory does not hold. ``problems`` has every mistake found, in reading order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda found: (found.file, found.line, found.column, found.kind)))
        super().__init__(
            "; ".join(f"{found.place or 'inventory'}: {found.kind} {dict(found.params)}" for found in self.problems)
        )
