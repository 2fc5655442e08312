"""Errors of the cloud side, split by whose fault it is.

An error is a stable key and parameters, never a formatted sentence: cloudside.messages turns it into English or
Japanese. Programs see the key, the parameters and a status.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

Parameter = str | int | float


class KyotenError(Exception):
    """Base. ``key`` names a message in the catalogues; ``params`` fill it. Parameters never hold a secret."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, key: str, /, **params: Parameter) -> None:
        super().__init__(key, params)
        self.key = key
        self.params: Mapping[str, Parameter] = params

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"{self.key} ({shown})" if shown else self.key


class InputError(KyotenError):
    """What the caller gave is wrong: unknown name, malformed file, overlapping prefix."""

    exit_code = 2
    http_status = 422


class InputErrors(InputError):
    """Several things are wrong with what the caller gave; ``problems`` has each of them."""

    def __init__(self, problems: Sequence[InputError]) -> None:
        super().__init__("registry.several", count=len(problems), problems="; ".join(map(str, problems)))
        self.problems = tuple(problems)


def combined(problems: Sequence[InputError]) -> InputError:
    """One error that says all of them; there is at least one."""
    return problems[0] if len(problems) == 1 else InputErrors(problems)


class RefusedError(KyotenError):
    """Understood and not allowed: revoked site, mobile line, another tenant's object."""

    exit_code = 3
    http_status = 403


class ConfigurationError(KyotenError):
    """The configuration or the installation is wrong; an operator has to mend it."""

    exit_code = 4
    http_status = 500


class UnavailableError(KyotenError):
    """Something we need does not answer now: registry locked, tunnel down, smarthost away. Trying again can help."""

    exit_code = 5
    http_status = 503
