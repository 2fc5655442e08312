"""What the relay counts, for Prometheus. A registry of its own, so that several relays fit into one test process.

Invariant: labels are bounded. No address, site, subject or message id becomes one; a reason that nobody foresaw is
counted as ``other``. Counting never raises and costs a microsecond. What is a state rather than an event (the queue,
the quota, the smarthost) is looked at when somebody asks: see Observed.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

#: Upper bounds in seconds. A commit is one fsync: 0.2 ms on a good disk, 10 ms on a slow one.
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
ATTEMPT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: From accepted to finished: a second is good, an hour is a retry, five days is the end.
AGE_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 900.0, 3600.0, 6 * 3600.0, 86400.0, 5 * 86400.0)

#: Different words that one label may have before the rest is ``other``.
WORDS_MAX = 40
_T = TypeVar("_T", Counter, Gauge)
_WORD = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")


@dataclass(frozen=True, slots=True)
class Observed:
    """How things stand at this moment.

    ``states``: recipients by state. ``oldest_s``: how long the oldest recipient that is not finished has waited, 0:
    none. ``trouble``: why nothing goes out (a Verdict's value), empty: it does. ``quota_max`` and ``quota_left``: mails
    of the smarthost's last 24 hours, None: not known. ``in_flight_bytes``: memory of mail that is being received.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    oldest_s: float = 0.0
    trouble: str = ""
    quota_max: float | None = None
    quota_left: float | None = None
    in_flight_bytes: float = 0.0


class Words:
    """Keeps the values of a label bounded, whatever comes."""

    def __init__(self, most: int = WORDS_MAX) -> None:
        self._most = most
        self._known: set[str] = set()

    def bounded(self, word: str) -> str:
        """``word`` itself if it looks like one of ours and there are not too many already, or ``other``."""
        if word in self._known:
            return word
        if len(self._known) < self._most and _WORD.match(word):
            self._known.add(word)
            return word
        return "other"


class Metrics:
    """The relay's counters. Parts are given one and call the method that says what happened."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._words = Words()
        self._children: dict[tuple[Counter | Gauge, str], Any] = {}
        prefix = "kyoten_mail"
        self._accepted = Counter(f"{prefix}_accepted", "Mails made durable", ["listener"], registry=registry)
        self._recipients = Counter(f"{prefix}_accepted_recipients", "Recipients of accepted mails", registry=registry)
        self._bytes = Counter(f"{prefix}_accepted_bytes", "Octets of accepted mails", registry=registry)
        self._refused = Counter(
            f"{prefix}_refused", "Commands and mails answered with 4xx or 5xx, by reason", ["reason"], registry=registry
        )
        self._logins = Counter(f"{prefix}_logins", "Logins: good, failed, throttled", ["result"], registry=registry)
        self._connections = Gauge(f"{prefix}_connections", "Open connections", ["listener"], registry=registry)
        self._attempts = Counter(
            f"{prefix}_attempts", "Tries to hand one recipient's mail over, by verdict", ["verdict"], registry=registry
        )
        self._attempt_s = Histogram(
            f"{prefix}_attempt_seconds", "One try, seconds", buckets=ATTEMPT_BUCKETS_S, registry=registry
        )
        self._finished = Counter(f"{prefix}_finished", "Recipients finished, by state", ["state"], registry=registry)
        self._age_s = Histogram(
            f"{prefix}_finished_age_seconds", "From accepted to finished", buckets=AGE_BUCKETS_S, registry=registry
        )
        self._commit_s = Histogram(
            f"{prefix}_commit_seconds",
            "An accepted mail's way to the disk",
            buckets=COMMIT_BUCKETS_S,
            registry=registry,
        )
        self._bounces = Counter(
            f"{prefix}_bounces", "Bounces and complaints that came in, by meaning", ["meaning"], registry=registry
        )
        self._queue = Gauge(f"{prefix}_queue", "Recipients by state", ["state"], registry=registry)
        self._oldest_s = Gauge(f"{prefix}_oldest_waiting_seconds", "The oldest unfinished recipient", registry=registry)
        self._smarthost = Gauge(
            f"{prefix}_smarthost_trouble", "1 for what keeps mail from going out", ["verdict"], registry=registry
        )
        self._smarthost_up = Gauge(f"{prefix}_smarthost_up", "1: mail goes out, 0: nothing does", registry=registry)
        self._quota_max = Gauge(f"{prefix}_quota_max", "Mails the account may send in 24 hours", registry=registry)
        self._quota_left = Gauge(f"{prefix}_quota_left", "Mails left of them", registry=registry)
        self._in_flight = Gauge(f"{prefix}_in_flight_bytes", "Memory of mail being received", registry=registry)

    def accepted(self, listener: str, *, recipients: int, size: int, seconds: float) -> None:
        """A mail got its 250. ``listener``: site, submission or tls. ``seconds``: until its commit had come back."""
        self._child(self._accepted, listener).inc()
        self._recipients.inc(recipients)
        self._bytes.inc(size)
        self._commit_s.observe(seconds)

    def accepted_together(
        self, listener: str, *, mails: int, recipients: int, size: int, seconds: Sequence[float]
    ) -> None:
        """Several mails got their 250: the sums of their recipients and octets, and each one's seconds."""
        self._child(self._accepted, listener).inc(mails)
        self._recipients.inc(recipients)
        self._bytes.inc(size)
        for one in seconds:
            self._commit_s.observe(one)

    def refused(self, reason: str, times: int = 1) -> None:
        """A connection, command or mail was answered with 4xx or 5xx. ``reason``: a short word such as ``size``."""
        self._child(self._refused, reason).inc(times)

    def login(self, result: str, times: int = 1) -> None:
        """good, failed or throttled."""
        self._child(self._logins, result).inc(times)

    def connected(self, listener: str, change: int) -> None:
        """One more connection (+1), or one less (-1)."""
        self._child(self._connections, listener).inc(change)

    def attempted(self, verdict: str, seconds: float) -> None:
        """One try to hand a recipient's mail to the smarthost."""
        self._child(self._attempts, verdict).inc()
        self._attempt_s.observe(seconds)

    def finished(self, state: str, age_s: float) -> None:
        """A recipient is delivered, bounced or expired, ``age_s`` after its mail was accepted."""
        self._child(self._finished, state).inc()
        self._age_s.observe(max(0.0, age_s))

    def bounced(self, meaning: str) -> None:
        """A bounce or complaint came in, by mail or as a notice."""
        self._child(self._bounces, meaning).inc()

    def _child(self, counter: _T, word: str) -> _T:
        """The counter of one word. ``labels`` looks and locks each time, which costs as much as all the rest."""
        child: _T | None = self._children.get((counter, word))
        if child is None:
            bounded = self._words.bounded(word)
            child = counter.labels(bounded)
            if bounded == word:
                self._children[counter, word] = child
        return child

    def observe(self, observed: Observed) -> None:
        """Take up how things stand. A state that is gone goes to 0 and does not stay as it was."""
        self._queue.clear()
        for state, count in observed.states.items():
            self._queue.labels(self._words.bounded(state)).set(count)
        self._oldest_s.set(observed.oldest_s)
        self._smarthost.clear()
        if observed.trouble:
            self._smarthost.labels(self._words.bounded(observed.trouble)).set(1)
        self._smarthost_up.set(0 if observed.trouble else 1)
        if observed.quota_max is not None:
            self._quota_max.set(observed.quota_max)
        if observed.quota_left is not None:
            self._quota_left.set(observed.quota_left)
        self._in_flight.set(observed.in_flight_bytes)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)


Look = Callable[[], Awaitable[Observed]]


def application(metrics: Metrics, look: Look) -> Starlette:
    """``GET /metrics``. There is no login: the address that it listens on must be a private one."""

    async def answer(_request: Request) -> Response:
        metrics.observe(await look())
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", answer)])
