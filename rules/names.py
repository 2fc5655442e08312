"""What the names in one tenant's policy mean. Nothing of another tenant can be named, so nothing can be reached.

A foreign name and one that does not exist are told in the same words: whether a name exists is another tenant's affair.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping

from rules.model import Endpoint, Kind

#: Beyond this many candidates the nearest name is not looked for: difflib needs about 10 us for each.
SUGGEST_FROM_MAX = 2000
#: From this ratio of difflib's on, a name is alike.
ALIKE = 0.7


def visible(everything: Iterable[Endpoint]) -> dict[str, dict[str, Endpoint]]:
    """For each tenant its own endpoints by name. Shared servers stand under the empty tenant."""
    table: dict[str, dict[str, Endpoint]] = {}
    for endpoint in everything:
        table.setdefault(endpoint.tenant or "", {})[endpoint.name] = endpoint
    return table


class Names:
    """The endpoints that one tenant's statements may name: its own, and shared servers."""

    def __init__(self, own: Mapping[str, Endpoint], shared: Mapping[str, Endpoint]) -> None:
        self._known = {**shared, **own}
        #: IP version and site (None: a server) by name.
        self.whereabouts = {name: (one.network.version, one.site) for name, one in self._known.items()}

    def endpoint(self, name: str) -> Endpoint | None:
        """The tenant's own site, device or server of that name, or a shared server."""
        return self._known.get(name)

    def all(self) -> Collection[str]:
        """All the names."""
        return self._known.keys()


def nearest(name: str, candidates: Collection[str]) -> str | None:
    """The candidate most like ``name``, if one is alike at all: what difflib.get_close_matches finds, without looking
    closely at candidates that cannot be the best.
    """
    if len(candidates) > SUGGEST_FROM_MAX:
        return None
    matcher = difflib.SequenceMatcher(b=name[:100])
    at_most: list[tuple[float, str]] = []
    for candidate in candidates:
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() >= ALIKE and (bound := matcher.quick_ratio()) >= ALIKE:
            at_most.append((bound, candidate))
    best: tuple[float, str] | None = None
    for bound, candidate in sorted(at_most, reverse=True):
        if best is not None and bound < best[0]:
            break
        matcher.set_seq1(candidate)
        found = matcher.ratio(), candidate
        if found[0] >= ALIKE and (best is None or found > best):
            best = found
    return None if best is None else best[1]


def never_passes(source: Endpoint, destination: Endpoint) -> str | None:
    """Why no packet between the two can pass the gateway, whatever the policy says; None if it can.

    Traffic inside a site stays on its LAN, traffic between cloud servers on theirs: the gateway neither sees nor
    forwards it.
    """
    if source.network.version != destination.network.version:
        return "rules.mixed-families"
    if source.kind is Kind.SERVER and destination.kind is Kind.SERVER:
        return "rules.between-servers"
    if source.site is not None and source.site == destination.site:
        return "rules.same-site"
    return None
