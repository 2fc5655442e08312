"""What can be wrong with a release and with what vouches for it, split by whose fault it is.

Each error is a stable key and parameters; who shows it has the texts.
"""

from collections.abc import Mapping, Sequence

Parameter = str | int | float


class FirmwareError(Exception):
    """Base. ``key`` names a message (``firmware.<kebab-key>``); parameters never hold a secret."""

    def __init__(self, key: str, /, **params: Parameter) -> None:
        super().__init__(key, params)
        self.key = key
        self.params: Mapping[str, Parameter] = params

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"{self.key} ({shown})" if shown else self.key


class DocumentError(FirmwareError):
    """One thing that is wrong with a document. ``params["place"]`` says where."""


class ReleaseError(FirmwareError):
    """A release, module or permit document cannot be used; ``problems`` has everything that is wrong with it."""

    def __init__(self, problems: Sequence[DocumentError]) -> None:
        super().__init__(problems[0].key, **problems[0].params)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "; ".join(map(str, self.problems))


class TrustError(FirmwareError):
    """The repository's word cannot be believed: one key for each kind of attack or mishap. Nothing was changed."""


class RepositoryError(FirmwareError):
    """The signing half: a step cannot be done as asked. ``params`` say what is missing."""


class KeyFileError(FirmwareError):
    """A signing key cannot be used: absent, readable by others, wrong passphrase, wrong PIN."""


class SourceError(FirmwareError):
    """The transport's fault: what was asked for did not arrive. Trying again can help."""
