"""What can go wrong on a router, split by whose fault it is. Each error is a stable key and parameters."""

from collections.abc import Mapping, Sequence

Parameter = str | int | float


class AgentError(Exception):
    """Base. ``key`` names a message; parameters never hold a secret."""

    def __init__(self, key: str, /, **params: Parameter) -> None:
        super().__init__(key, params)
        self.key = key
        self.params: Mapping[str, Parameter] = params

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"{self.key} ({shown})" if shown else self.key


class BundleError(AgentError):
    """The enrolment bundle cannot be used; ``problems`` has everything that is wrong with it."""

    def __init__(self, problems: Sequence[AgentError]) -> None:
        first = problems[0]
        super().__init__(first.key, **first.params)
        self.problems = tuple(problems)


class StateError(AgentError):
    """The state directory cannot be read or written: full, read-only, missing."""


class CloudUnreachableError(AgentError):
    """The transport's fault: no connection, a time-out, a certificate that is not the cloud's."""


class CloudRefusedError(AgentError):
    """The cloud answered and said no, or answered what cannot be understood."""
