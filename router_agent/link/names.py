"""Gateways' names to addresses, in a thread: a name server that does not answer must not stop the agent's loop.

What was found once is kept while a name cannot be resolved: a name server that is down takes no site off.
"""

import queue
import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from router_agent.bundle import Address
from router_agent.problems import Problem

#: Seconds after which a name is asked for again, and after a failure.
AGAIN_S = 300.0
FAILED_AGAIN_S = 15.0

#: A resolver that has said nothing for this long counts as failed, in seconds.
WAIT_S = 10.0

#: Addresses of one name that are tried; the rest is not.
ADDRESSES_MOST = 4

Resolve = Callable[[str], Sequence[Address]]


def resolve(name: str) -> list[Address]:
    """Ask the machine's resolver. Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


class Names:
    """Addresses of names. All but the thread runs in the main loop; times are monotonic seconds."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[tuple[str, tuple[Address, ...], str]] = queue.SimpleQueue()
        self._addresses: dict[str, tuple[Address, ...]] = {}
        self._reasons: dict[str, str] = {}
        self._due_at: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def addresses(self, names: Sequence[str], now: float) -> tuple[Address, ...]:
        """What is known of these names, in their order; a literal address is itself. Asks for the rest."""
        self._take(now)
        found: list[Address] = []
        for name in names:
            literal = _literal(name)
            if literal is not None:
                found.append(literal)
                continue
            self._ask(name, now)
            found.extend(self._addresses.get(name, ()))
        return tuple(dict.fromkeys(found))

    def problems(self, names: Sequence[str]) -> tuple[Problem, ...]:
        """Names that could not be resolved at the last try."""
        return tuple(
            Problem("agent.dns-failed", {"name": name, "reason": self._reasons[name]})
            for name in names
            if name in self._reasons
        )

    def _ask(self, name: str, now: float) -> None:
        asked_at = self._asked_at.get(name)
        if asked_at is not None:
            if now - asked_at > WAIT_S:
                self._reasons[name] = f"no answer within {WAIT_S:g} s"
            return
        if now < self._due_at.get(name, now):
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="names", daemon=True)
            self._thread.start()
        self._asked_at[name] = now
        self._wanted.put(name)

    def _take(self, now: float) -> None:
        while True:
            try:
                name, addresses, reason = self._found.get_nowait()
            except queue.Empty:
                return
            self._asked_at.pop(name, None)
            self._due_at[name] = now + (AGAIN_S if addresses else FAILED_AGAIN_S)
            if addresses:
                self._addresses[name] = addresses
                self._reasons.pop(name, None)
            else:
                self._reasons[name] = reason

    def _run(self) -> None:
        while True:
            name = self._wanted.get()
            try:
                found = tuple(self._resolve(name))[:ADDRESSES_MOST]
                reason = "" if found else "no address"
            except (OSError, UnicodeError) as error:
                found, reason = (), str(error)[:100]
            self._found.put((name, found, reason))


def _literal(name: str) -> Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
