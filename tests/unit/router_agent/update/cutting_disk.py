"""A disk whose power can be cut before any write, flush or removal, and that then keeps what a real one might keep."""

import random


class PowerCutError(Exception):
    """The power is gone."""


class CuttingDisk:
    """Implements payload_journal.Disk. What was not flushed is there after a cut whole, in part, or not at all."""

    def __init__(self, rolls: random.Random) -> None:
        self._rolls = rolls
        self.durable: dict[str, bytes] = {}
        self._pending: dict[str, list[tuple[int, bytes]]] = {}
        self._seen: dict[str, bytearray] = {}
        self.acts_left: int | None = None
        self.full = False
        self.most_bytes: int | None = None

    def cut(self) -> None:
        """The power comes back: only what the disk has kept is there."""
        for name, writes in self._pending.items():
            if name not in self.durable:
                continue
            content = bytearray(self.durable[name])
            self._rolls.shuffle(writes)  # nobody promises an order
            for offset, piece in writes:
                kept = piece[: self._rolls.choice((0, len(piece), self._rolls.randint(0, len(piece))))]
                _put(content, offset, kept)
            self.durable[name] = bytes(content)
        self._pending.clear()
        self._seen = {name: bytearray(content) for name, content in self.durable.items()}
        self.acts_left = None

    def size(self, name: str) -> int | None:
        return len(self._seen[name]) if name in self._seen else None

    def make(self, name: str, size: int) -> None:
        self._act()
        if self.most_bytes is not None and size > self.most_bytes:
            raise OSError(28, "No space left on device")
        self.durable[name] = bytes(size)
        self._seen[name] = bytearray(size)
        self._pending.pop(name, None)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self._seen[name][offset : offset + length])

    def write(self, name: str, offset: int, content: bytes) -> None:
        # It may stop in the middle of the write itself.
        self._pending.setdefault(name, []).append((offset, content))
        self._act()
        _put(self._seen[name], offset, content)

    def flush(self, name: str) -> None:
        self._act()
        self.durable[name] = bytes(self._seen[name])
        self._pending.pop(name, None)

    def remove(self, name: str) -> None:
        self._act()
        self.durable.pop(name, None)
        self._seen.pop(name, None)
        self._pending.pop(name, None)

    def _act(self) -> None:
        if self.acts_left is not None:
            if self.acts_left == 0:
                raise PowerCutError
            self.acts_left -= 1


def _put(content: bytearray, offset: int, piece: bytes) -> None:
    if piece:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(piece)] = piece
