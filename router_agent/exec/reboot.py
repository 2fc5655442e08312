"""Starts the machine anew, by its init system. Does not wait: this agent is ended with everything else."""

import subprocess
from pathlib import Path

PROGRAM = ("systemctl", "reboot")


class Reboot:
    """``program``: something else than systemctl."""

    def __init__(self, program: Path | None = None) -> None:
        self._argv = PROGRAM if program is None else (str(program),)
        self._process: subprocess.Popen[bytes] | None = None

    def step(self) -> str | None:
        """Begin, or look how it goes; why it cannot be, None: it is under way."""
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                return error.strerror or type(error).__name__
            return None
        status = self._process.poll()
        if status in (None, 0):
            return None
        self._process = None
        return f"{self._argv[0]} ended with status {status}"
