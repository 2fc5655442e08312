"""A Selection as a condition on messages ``m`` and recipients ``r``. Pure."""

from collections.abc import Collection, Sequence
from typing import Any

from cloudside.mail.model import UNFINISHED, Selection, State


def where(which: Selection, states: Collection[State] = ()) -> tuple[str, list[Any]]:
    """The condition and its parameters. ``states``: only recipients in these are wanted anyway."""
    parts: list[str] = []
    values: list[Any] = []

    def add(condition: str, *parameters: Any) -> None:
        parts.append(condition)
        values.extend(parameters)

    def one_of(column: str, allowed: Sequence[Any]) -> None:
        add(f"{column} IN ({', '.join('?' * len(allowed))})" if allowed else "1 = 0", *allowed)

    if which.ids:
        one_of("m.id", which.ids)
    if which.origins is not None:
        one_of("m.origin", which.origins)
    if which.tenant is not None:
        add("m.tenant = ?", which.tenant)
    if which.device:
        add("m.device = ?", which.device)
    if which.address:
        add("(lower(m.sender) = ? OR lower(r.address) = ?)", which.address.lower(), which.address.lower())
    if which.since is not None:
        add("m.accepted_at >= ?", which.since)
    if which.until is not None:
        add("m.accepted_at < ?", which.until)
    for some in (which.states, states):
        if some:
            one_of("r.state", [state.value for state in some])
    if any(some and set(some) <= set(UNFINISHED) for some in (which.states, states)):
        # Only these have a body: a few among all that are remembered, found without an index that each mail would pay.
        add("m.seq IN (SELECT message FROM bodies)")
    return " AND ".join(parts) or "1 = 1", values
