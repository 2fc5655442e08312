"""The agent's log file: one line an event, UTC, turned over at a size. A full disk costs lines, never the agent.

Standard library logging, because structlog costs 16 MiB of memory here. No secret is ever passed to a logger.
"""

import logging
import logging.handlers
import sys
import time
from pathlib import Path

NAME = "agent.log"
FILE_MAX_BYTES = 1_000_000
OLD_FILES = 2

#: The first 19 characters are the time, in the agent's and in charon's lines alike: they are merged by it.
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Utc(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        # One event, one line: what a peer sent cannot make a line that looks like ours.
        return super().format(record).replace("\r", " ").replace("\n", " | ")


class LogWriter(logging.handlers.RotatingFileHandler):
    """Remembers that a line could not be written (``trouble``) instead of raising."""

    def __init__(self, directory: Path) -> None:
        self.trouble: str | None = None
        super().__init__(directory / NAME, maxBytes=FILE_MAX_BYTES, backupCount=OLD_FILES, encoding="utf-8", delay=True)
        self.setFormatter(_Utc(_LINE, "%Y-%m-%dT%H:%M:%SZ"))

    def emit(self, record: logging.LogRecord) -> None:
        self.trouble = None
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        self.trouble = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def install(directory: Path, *, also_stderr: bool) -> LogWriter:
    """Log to a file in ``directory``, and to the terminal when someone looks on."""
    writer = LogWriter(directory)
    root = logging.getLogger("router_agent")
    root.handlers = [writer]
    root.propagate = False
    root.setLevel(logging.INFO)
    if also_stderr:
        stream = logging.StreamHandler()
        stream.setFormatter(_Utc(_LINE, "%Y-%m-%dT%H:%M:%SZ"))
        root.addHandler(stream)
    return writer


def set_level(word: str) -> None:
    """``debug``, ``info`` or ``warning``."""
    logging.getLogger("router_agent").setLevel(word.upper())
