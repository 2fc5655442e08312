"""What is published, as the list says it. Pure, and without TUF: the agent's loop decides by it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of what is published, before its document is fetched. ``name``: the hardware, or the module."""

    path: str
    kind: str
    name: str
    version: str
    counter: int
    #: Of a release; 0 for a module.
    minimum_from: int
    #: Of a module, such as ``modem-table``; empty for a release.
    module_kind: str
