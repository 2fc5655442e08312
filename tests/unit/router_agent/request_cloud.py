"""A cloud that takes log pieces, results and crash reports in memory, as the real one does, and can be told to fail."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from router_agent.bundle import Endpoint
from router_agent.errors import CloudUnreachableError

WAY = (Endpoint("10.255.255.1", 8443, True),)


@dataclass
class MemoryCloud:
    """``pulls``: id -> what came. ``fails``: called before each request; may raise."""

    pulls: dict[str, bytearray] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    posts: list[tuple[str, Any]] = field(default_factory=list)
    unwanted: set[str] = field(default_factory=set)
    fails: Callable[[str], None] = lambda _: None
    #: Bytes of pieces that travelled, also those that came twice.
    travelled: int = 0
    #: Take the piece, then lose the answer.
    lose_answers: int = 0

    def post(self, path: str, body: bytes, content_type: str, endpoints: tuple[Endpoint, ...]) -> bytes:
        assert endpoints == WAY
        self.fails(path)
        parts = urlsplit(path)
        if not parts.path.endswith("/pieces"):
            self.posts.append((parts.path, json.loads(body)))
            return b""
        self.travelled += len(body)
        answer = self._piece(parts.path.split("/")[4], parse_qs(parts.query, keep_blank_values=True), body)
        if self.lose_answers:
            self.lose_answers -= 1
            raise CloudUnreachableError("agent.cloud-unreachable", endpoint="x", reason="the answer was lost")
        return answer

    def _piece(self, pull: str, query: dict[str, list[str]], body: bytes) -> bytes:
        offset, total, sha256 = int(query["offset"][0]), int(query["total"][0]), query["sha256"][0]
        have = self.pulls.setdefault(pull, bytearray())
        if self.hashes.setdefault(pull, sha256) != sha256:
            have.clear()
            self.hashes[pull] = sha256
        if offset == len(have):
            have += body
        whole = bool(total) and len(have) == total
        if whole:
            assert hashlib.sha256(have).hexdigest() == sha256
        return json.dumps({"received": len(have), "wanted": not whole and pull not in self.unwanted}).encode()


def unreachable(_: str) -> None:
    """For ``fails``."""
    raise CloudUnreachableError("agent.cloud-unreachable", endpoint="x", reason="down")
