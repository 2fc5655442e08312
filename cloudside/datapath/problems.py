"""What troubles a gateway, as data: a message key and parameters. Told to the registry, shown by CLI and console."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloudside.errors import KyotenError, Parameter


@dataclass(frozen=True, slots=True)
class Problem:
    """One trouble. ``params`` as pairs in order of name, so that equal troubles are equal and hashable."""

    key: str
    params: tuple[tuple[str, Parameter], ...] = ()

    def as_json(self) -> dict[str, object]:
        """The form in the gateway's report."""
        return {"key": self.key, "params": dict(self.params)}


def problem(key: str, /, **params: Parameter) -> Problem:
    """A problem by its key and parameters."""
    return of(key, params)


def of(key: str, params: Mapping[str, Parameter]) -> Problem:
    """The same, with the parameters in a mapping."""
    return Problem(key, tuple(sorted(params.items())))


def from_error(error: KyotenError) -> Problem:
    """An error of ours as a problem."""
    return of(error.key, error.params)
