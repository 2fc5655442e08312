"""A relay whose clock is wrong, and jumps while it runs.

The machine's own clock cannot be set for one process alone (time namespaces leave the real-time clock out), so the two
ways in which the product reads it are replaced in a forked relay: ``time.time`` and ``datetime.now``.
"""

import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path

_true_time = time.time


class Clock:
    """Off by what stands in a file, in seconds. ``follow`` makes this process believe it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.jump_to(0.0)

    def jump_to(self, offset_s: float) -> None:
        """From now on it is so far ahead."""
        temporary = self._path.with_suffix(".new")
        temporary.write_text(repr(offset_s))
        temporary.rename(self._path)

    def follow(self) -> None:
        """Called in the relay before it runs."""
        path = self._path

        def shifted() -> float:
            return _true_time() + float(path.read_text())

        class Shifted(datetime):
            """datetime with the wrong clock; what ``now`` gives is an ordinary one."""

            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(shifted(), tz)

        time.time = shifted
        for name, module in list(sys.modules.items()):
            if name.startswith("cloudside.") and getattr(module, "datetime", None) is datetime:
                module.datetime = Shifted  # type: ignore[attr-defined]
