"""A cloud in memory that serves payloads, on a line that breaks, and that can be told to cheat."""

from collections.abc import Callable, Iterator

from router_agent.errors import CloudRefusedError, CloudUnreachableError
from router_agent.update.client import CloudBusyError


class Clock:
    """Time that passes only when somebody sleeps or bytes come."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now_s += seconds


class PayloadCloud:
    """Implements fetch.PayloadSource. ``cheat``: what becomes of a piece at an offset; ``break_after``: bytes until the
    line breaks, one number for each connection, then never."""

    def __init__(self, content: bytes, clock: Clock, *, bytes_s: float = 1e6, piece_bytes: int = 1024) -> None:
        self.content = content
        self.clock = clock
        self.bytes_s = bytes_s
        self.piece_bytes = piece_bytes
        self.cheat: Callable[[int, bytes], bytes] = lambda _offset, piece: piece
        self.break_after: list[int] = []
        self.refuse = 0
        self.busy: list[float] = []
        self.dead = False
        self.asked: list[tuple[int, int]] = []
        self.passed_over = 0
        self.sent = 0

    def ranged(self, name: str, start: int, end: int, size: int) -> Iterator[bytes]:
        self.asked.append((start, end))
        assert 0 <= start < end <= size == len(self.content)
        if self.dead:
            self.clock.now_s += 15
            raise CloudUnreachableError("agent.cloud-unreachable", endpoint="x", reason="dead")
        if self.busy:
            busy = CloudBusyError("agent.cloud-unreachable", endpoint="x", reason="status 503")
            busy.wait_s = self.busy.pop(0)
            raise busy
        if self.refuse:
            self.refuse -= 1
            raise CloudRefusedError("agent.update-payload-missing", file=name, endpoint="x")
        left = self.break_after.pop(0) if self.break_after else size
        while start < end:
            piece = self.content[start : min(start + self.piece_bytes, end)][:left]
            if not piece:
                self.clock.now_s += 15
                raise CloudUnreachableError("agent.cloud-unreachable", endpoint="x", reason="silence")
            self.clock.now_s += len(piece) / self.bytes_s
            self.sent += len(piece)
            yield self.cheat(start, piece)
            start, left = start + len(piece), left - len(piece)

    def pass_over(self) -> None:
        self.passed_over += 1
