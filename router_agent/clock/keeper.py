"""Sets the machine's clock, and nobody else does. Threads of the courier may call."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cryptography import x509

from linux import clock as machine
from linux.errors import ClockError
from router_agent.clock import judge
from router_agent.clock.judge import Bounds, Leaf, Said

_log = logging.getLogger(__name__)


class ClockKeeper:
    """``known``: what is certain; it may change when certificates do (`know`)."""

    def __init__(
        self,
        known: Bounds,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        set_clock: Callable[[datetime], None] = machine.set_clock,
        keep: Callable[[], None] = machine.keep,
    ) -> None:
        self._known = known
        self._now = now
        self._set = set_clock
        self._keep = keep
        self._lock = threading.Lock()
        self._proven = False

    def know(self, known: Bounds) -> None:
        """Other certificates are installed."""
        with self._lock:
            self._known = known

    def begin(self) -> None:
        """Before anything is asked."""
        with self._lock:
            if (wanted := judge.at_start(self._now(), self._known)) is not None:
                self._move(wanted, "it cannot be right")

    def answered(self, date: str | None, took_s: float) -> None:
        """The cloud has answered, and its certificate counts."""
        said = _read(date, took_s)
        if said is None:
            return
        with self._lock:
            wanted = judge.on_answer(self._now(), said, self._known)
            if wanted is not None:
                self._move(wanted, "the cloud says so")
            elif not self._proven and said.at >= self._known.floor:
                # Right already; the battery's clock may not be.
                self._try(self._keep)
            self._proven = self._proven or said.at >= self._known.floor

    def vouched(self, date: str | None, took_s: float, leaf_der: bytes) -> bool:
        """Somebody with a certificate of ours that does not count by our clock. True: the clock was set."""
        said = _read(date, took_s)
        if said is None:
            return False
        shown = x509.load_der_x509_certificate(leaf_der)
        leaf = Leaf(shown.not_valid_before_utc, shown.not_valid_after_utc)
        with self._lock:
            wanted = judge.on_voucher(self._now(), said, leaf, self._known, proven=self._proven)
            return wanted is not None and self._move(wanted, "the cloud's certificate says so")

    def _move(self, wanted: datetime, why: str) -> bool:
        here = self._now()
        moved = self._try(lambda: self._set(wanted))
        if moved:
            self._try(self._keep)
            _log.warning("the clock was set from %s to %s: %s", _shown(here), _shown(wanted), why)
        return moved

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except ClockError as error:
            _log.error("%s", error)
            return False
        return True


def _read(date: str | None, took_s: float) -> Said | None:
    try:
        at = parsedate_to_datetime(date or "")
        return Said(at if at.tzinfo else at.replace(tzinfo=UTC), took_s)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
