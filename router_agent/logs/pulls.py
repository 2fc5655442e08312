"""Hands logs over in pieces, in a lane of its own. A pull is packed once, on disk, and goes on where the cloud says
that it ended: after a reboot, on another line, under another address.

On a mobile line pieces are small and slow, and a pull that was packed larger than is wanted there waits for a wired
line. A followed log is not packed: each piece has the lines since the one before, a few seconds' worth.
"""

import gzip
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from linux.files import write_durably
from router_agent.bundle import Endpoint
from router_agent.errors import AgentError, CloudRefusedError, StateError
from router_agent.logs.pack import Logs, Range
from router_agent.logs.tails import Tails
from router_agent.problems import Problem
from router_agent.report.cloud import CloudClient
from router_agent.report.firmware import problem_document
from router_agent.report.requests import LogPull, PieceAnswer, parse_piece_answer

_log = logging.getLogger(__name__)

#: Bytes of a piece on a wired and on a mobile line: what a line that breaks off costs at most.
PIECE_BYTES = 131_072
MOBILE_PIECE_BYTES = 32_768
#: Seconds between looks for new lines of a followed log, and between pieces of all others.
FOLLOW_S = 2.0
MOBILE_FOLLOW_S = 10.0
_AGAIN_S = 30.0
#: Lines that a followed log begins with.
FOLLOW_LINES = 10

_PROTOCOL = "/agent/v1/log-pulls"


@dataclass(slots=True)
class _Packed:
    """A pull that lies on disk. ``sent``: as many bytes as the cloud has said that it has."""

    path: Path
    size: int
    sha256: str
    sent: int


@dataclass(slots=True)
class _Followed:
    """A log that is followed. ``piece``: one that is not yet handed over; ``until``: the time of its last line."""

    tails: Tails | None
    sent: int
    since: datetime | None
    piece: bytes = b""


class Pulls:
    """``directory``: where packed pulls lie, on a disk that survives a reboot. ``tails`` opens a followed log."""

    def __init__(
        self,
        directory: Path,
        logs: Logs,
        tails: Callable[[Sequence[str]], Tails],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._logs = logs
        self._tails = tails
        self._clock = clock
        self._monotonic = monotonic
        self._wanted: tuple[LogPull, ...] | None = None
        self._mobile = False
        self._packed: dict[str, _Packed] = {}
        self._followed: dict[str, _Followed] = {}
        self._over: set[str] = set()
        self._waiting: set[str] = set()
        self._not_before: dict[str, float] = {}

    def want(self, pulls: tuple[LogPull, ...], *, mobile: bool) -> bool:
        """What the cloud wants now, and the line in use; any thread. True: there is something to do."""
        self._wanted, self._mobile = pulls, mobile
        return bool(pulls or self._packed or self._followed)

    def step(self, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        """One piece of each pull. Raises CloudUnreachableError: what was not taken is sent again."""
        wanted = self._wanted
        if wanted is None:
            return None
        self._forget(wanted)
        waits = []
        for pull in wanted:
            now = self._monotonic()
            if pull.id in self._over:
                continue
            if now < self._not_before.get(pull.id, now):
                waits.append(self._not_before[pull.id] - now)
                continue
            wait_s = self._serve(pull, client, endpoints)
            if wait_s is not None:
                self._not_before[pull.id] = self._monotonic() + wait_s
                waits.append(wait_s)
        return min(waits, default=None)

    def _serve(self, pull: LogPull, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        """One piece; seconds until the next one, None: the pull is over."""
        try:
            if pull.follow:
                return self._follow(pull, client, endpoints)
            return self._hand_over(pull, client, endpoints)
        except CloudRefusedError as error:
            # It is not wanted any more, or not understood: the next answer says which.
            _log.warning("log %s: %s", pull.id, error)
            self._over.add(pull.id)
            return None
        except (OSError, StateError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            _log.warning("log %s cannot be packed: %s", pull.id, reason)
            self._tell(pull, "waiting", Problem("agent.log-not-packed", {"reason": reason[:200]}), client, endpoints)
            return _AGAIN_S

    def _hand_over(self, pull: LogPull, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        mobile = self._mobile
        packed = self._packed.get(pull.id)
        if packed is None:
            packed = self._packed[pull.id] = self._found(pull) or self._pack(pull, mobile=mobile)
        limit = pull.limit_bytes(mobile=mobile)
        if packed.size > limit:
            params = {"size": packed.size, "most": limit}
            self._tell(pull, "waiting", Problem("agent.log-waits-for-line", params), client, endpoints)
            return _AGAIN_S
        self._waiting.discard(pull.id)
        if packed.sent >= packed.size:  # all of it came, and is wanted all the same
            packed.sent = 0
        with packed.path.open("rb") as stream:
            stream.seek(packed.sent)
            piece = stream.read(MOBILE_PIECE_BYTES if mobile else PIECE_BYTES)
        answer = self._send(pull, packed.sent, packed.size, packed.sha256, piece, client, endpoints)
        packed.sent = min(answer.received, packed.size)
        if not answer.wanted:
            _log.info("log %s handed over: %d bytes", pull.id, packed.size)
            self._end(pull.id)
            return None
        rate = pull.rate_bytes_s(mobile=mobile)
        return len(piece) / rate if rate else 0.0

    def _pack(self, pull: LogPull, *, mobile: bool) -> _Packed:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._path(pull.id)
        made = self._logs.pack(
            path,
            Range(pull.units, pull.since, pull.until, pull.lines),
            pull.limit_bytes(mobile=mobile),
            now=self._clock(),
        )
        write_durably(
            path.with_suffix(".json"), json.dumps({"format": 1, "size": made.size, "sha256": made.sha256}).encode()
        )
        _log.info("log %s packed: %d lines, %d bytes", pull.id, made.lines, made.size)
        return _Packed(path, made.size, made.sha256, 0)

    def _found(self, pull: LogPull) -> _Packed | None:
        """What an agent before this one has packed, if it is whole."""
        path = self._path(pull.id)
        try:
            told = json.loads(path.with_suffix(".json").read_bytes())
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != told["sha256"] or path.stat().st_size != told["size"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        _log.info("log %s goes on at %d of %d bytes", pull.id, pull.received, told["size"])
        return _Packed(path, told["size"], digest, min(pull.received, told["size"]))

    def _follow(self, pull: LogPull, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        mobile = self._mobile
        followed = self._followed.get(pull.id)
        if followed is None:
            followed = self._followed[pull.id] = _Followed(None, pull.received, self._cursor(pull))
        if not followed.piece:
            followed.piece = self._next_lines(pull, followed)
        pause_s = MOBILE_FOLLOW_S if mobile else FOLLOW_S
        if not followed.piece:
            return pause_s
        if followed.sent + len(followed.piece) > pull.limit_bytes(mobile=mobile):
            params = {"size": followed.sent, "most": pull.limit_bytes(mobile=mobile)}
            self._tell(pull, "failed", Problem("agent.log-follow-limit", params), client, endpoints)
            self._end(pull.id)
            return None
        size = len(followed.piece)
        answer = self._send(pull, followed.sent, 0, "", followed.piece, client, endpoints)
        if answer.received >= followed.sent + size:
            followed.piece = b""
            self._keep_cursor(pull)
        followed.sent = answer.received
        if not answer.wanted:
            self._end(pull.id)
            return None
        rate = pull.rate_bytes_s(mobile=mobile)
        return max(pause_s, size / rate if rate else 0.0)

    def _next_lines(self, pull: LogPull, followed: _Followed) -> bytes:
        """A gzip of the lines since the piece before; empty: there are none."""
        if followed.tails is None:  # from here on; what was before is a pack
            followed.tails = self._tails(pull.units)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            path = self._path(pull.id)
            since = followed.since or pull.since
            lines = 0 if followed.since is not None else (pull.lines or FOLLOW_LINES)
            self._logs.pack(path, Range(pull.units, since, None, lines), PIECE_BYTES, now=self._clock())
            return path.read_bytes()
        lines_now = followed.tails.new()
        return gzip.compress("".join(lines_now).encode("utf-8", "replace"), mtime=0) if lines_now else b""

    def _cursor(self, pull: LogPull) -> datetime | None:
        """Until when an agent before this one has followed."""
        try:
            told = json.loads(self._path(pull.id).with_suffix(".json").read_bytes())
            return datetime.fromisoformat(told["followed"]) if pull.received else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep_cursor(self, pull: LogPull) -> None:
        # Not flushed: after a power cut a few lines come twice.
        document = {"format": 1, "followed": self._clock().isoformat(timespec="seconds")}
        self._path(pull.id).with_suffix(".json").write_text(json.dumps(document))

    def _send(
        self,
        pull: LogPull,
        offset: int,
        total: int,
        sha256: str,
        piece: bytes,
        client: CloudClient,
        endpoints: tuple[Endpoint, ...],
    ) -> PieceAnswer:
        path = f"{_PROTOCOL}/{pull.id}/pieces?offset={offset}&total={total}&sha256={sha256}"
        return parse_piece_answer(client.post(path, piece, "application/octet-stream", endpoints))

    def _tell(
        self, pull: LogPull, state: str, problem: Problem, client: CloudClient, endpoints: tuple[Endpoint, ...]
    ) -> None:
        if pull.id in self._waiting and state == "waiting":
            return  # said before
        body = json.dumps({"state": state, "problem": problem_document(problem)}).encode()
        try:
            client.post(f"{_PROTOCOL}/{pull.id}/state", body, "application/json", endpoints)
        except AgentError as error:
            _log.info("log %s: %s", pull.id, error)
        else:
            self._waiting.add(pull.id)

    def _forget(self, wanted: Sequence[LogPull]) -> None:
        """Drop what is not wanted any more, of earlier agents too."""
        ids = {pull.id for pull in wanted}
        self._over &= ids
        self._waiting &= ids
        self._not_before = {name: at for name, at in self._not_before.items() if name in ids}
        for gone in (self._packed.keys() | self._followed.keys()) - ids:
            self._end(gone)
            self._over.discard(gone)
        try:
            for path in self._directory.iterdir():
                if path.stem.lstrip(".").removesuffix(".gz") not in ids:
                    path.unlink(missing_ok=True)
        except OSError:
            pass

    def _end(self, identifier: str) -> None:
        self._over.add(identifier)
        self._packed.pop(identifier, None)
        followed = self._followed.pop(identifier, None)
        if followed is not None and followed.tails is not None:
            followed.tails.close()
        for path in (self._path(identifier), self._path(identifier).with_suffix(".json")):
            path.unlink(missing_ok=True)

    def _path(self, identifier: str) -> Path:
        return self._directory / f"{identifier}.gz"
