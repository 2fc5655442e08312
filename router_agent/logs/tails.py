"""New lines of the logs as they come: what `follow` shows. Bears logs being turned over under it."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from router_agent.logs import units as logs
from router_agent.logs import writer
from router_agent.logs.kernel import Kmsg
from router_agent.logs.pack import shown
from router_agent.logs.redaction import Redaction
from router_agent.logs.units import KERNEL, Places

#: Most bytes of one log that are read at once; the rest comes with the next look.
READ_MAX_BYTES = 262_144


class Tail:
    """The end of one file. ``old``: where it is moved to when it is turned over."""

    def __init__(self, path: Path, old: Path | None) -> None:
        self.path = path
        self._old = old
        self._inode, self._offset = self._found()
        self._rest = b""

    @property
    def standing(self) -> tuple[int, int]:
        """How far it has come: the file, by its inode, and the end of the last whole line that was taken."""
        return self._inode, self._offset - len(self._rest)

    @standing.setter
    def standing(self, to: tuple[int, int]) -> None:
        self._inode, self._offset = to
        self._rest = b""

    def new(self) -> Iterator[str]:
        """Whole lines that were written since the last call; of very many, the rest with the next call."""
        inode, size = self._found()
        if inode != self._inode:
            if self._old is not None and self._inode and _inode(self._old) == self._inode:
                before = self._offset
                yield from self._read(self._old, READ_MAX_BYTES)
                if not inode or self._offset - before == READ_MAX_BYTES:
                    return  # it is written to until the new one is there, or there is more of it
            self._inode, self._offset, self._rest = inode, 0, b""
        elif size < self._offset:  # begun anew in its place
            self._offset, self._rest = 0, b""
        yield from self._read(self.path, READ_MAX_BYTES)

    def _read(self, path: Path, most: int) -> Iterator[str]:
        try:
            with path.open("rb") as stream:
                stream.seek(self._offset)
                content = stream.read(most)
        except OSError:
            return
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")

    def _found(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size


class Tails:
    """Several logs, from now on."""

    def __init__(self, chosen: Sequence[str], places: Places, redaction: Callable[[], Redaction]) -> None:
        self._chosen = logs.wanted(chosen)
        self._redaction = redaction
        self._files = [
            (unit, paths[-1].name == writer.NAME, Tail(paths[-1], paths[-2] if len(paths) > 1 else None))
            for unit in self._chosen
            for paths in places.live(unit)
        ]
        self._kernel: Kmsg | None = None
        if KERNEL in self._chosen:
            try:
                self._kernel = Kmsg(from_now=True)
            except OSError:
                pass  # the first piece says that it cannot be read

    def new(self) -> list[str]:
        """Lines as they travel, in the order of their times."""
        redaction = self._redaction()
        streams = [
            list(logs.stamped(unit, tail.new(), self._chosen, agents=agents)) for unit, agents, tail in self._files
        ]
        if self._kernel is not None:
            streams.append(list(logs.stamped(KERNEL, self._kernel.new(), self._chosen)))
        return [shown(line, redaction) for line in heapq.merge(*streams, key=lambda item: item[0])]

    def close(self) -> None:
        """Give back what is open."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
