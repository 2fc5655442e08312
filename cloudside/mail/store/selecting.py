"""A Selection as a condition on messages ``m`` and recipients ``r``. Pure."""

from collections.abc import Sequence
from typing import Any

from cloudside.mail.model import Selection


def where(which: Selection) -> tuple[str, list[Any]]:
    """The condition and its parameters."""
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
    if which.states:
        one_of("r.state", [state.value for state in which.states])
    return " AND ".join(parts) or "1 = 1", values
