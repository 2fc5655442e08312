"""A Runner that runs nothing: it answers from a script and remembers what it was asked, with the real one's errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from linux.errors import ProgramFailedError, ProgramMissingError, ProgramTimeoutError
from linux.runner import DETAIL_MAX_CHARS, Finished


@dataclass
class RecordingRunner:
    """``programs`` maps a program to what it does with argv and standard input; others are not installed.

    An answer of None is a program that does not end.
    """

    programs: dict[str, Callable[[Sequence[str], str], Finished | None]]
    calls: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        self.calls.append((tuple(argv), stdin))
        program = PurePath(argv[0]).name
        if program not in self.programs:
            raise ProgramMissingError(program)
        ended = self.programs[program](argv, stdin)
        if ended is None:
            raise ProgramTimeoutError(program, timeout_s)
        if check and ended.status != 0:
            raise ProgramFailedError(program, ended.status, ended.stderr.strip()[-DETAIL_MAX_CHARS:])
        return ended
