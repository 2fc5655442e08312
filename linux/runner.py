"""One way to run an external program: an argv list, never a shell, with a time limit.

Secrets go in on standard input, never in argv, because argv is readable by everyone on the machine. Nothing here logs
standard input or output.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from linux.errors import ProgramFailedError, ProgramMissingError, ProgramTimeoutError

#: How much of a program's complaint is kept in an error.
DETAIL_MAX_CHARS = 400


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended: exit status and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs programs. Tests pass one that records."""

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        """Run to the end and return what it wrote.

        Raises ProgramMissingError, ProgramTimeoutError, and, unless ``check`` is false, ProgramFailedError for a
        non-zero exit status.
        """
        ...


class SubprocessRunner:
    """The real one. ``prefix`` is put before each argv (the lab enters a network namespace with it)."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        program = PurePath(argv[0]).name
        try:
            ended = subprocess.run(
                [*self._prefix, *argv], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except FileNotFoundError:
            raise ProgramMissingError(program) from None
        except subprocess.TimeoutExpired:
            raise ProgramTimeoutError(program, timeout_s) from None
        if check and ended.returncode != 0:
            raise ProgramFailedError(program, ended.returncode, ended.stderr.strip()[-DETAIL_MAX_CHARS:])
        return Finished(ended.returncode, ended.stdout, ended.stderr)
