"""What can go wrong between us and the machine, split by whose fault it is."""


class LinuxError(Exception):
    """Base: something on this machine did not do what was asked."""


class ProgramMissingError(LinuxError):
    """The program is not installed. ``program`` names it."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program} is not installed on this machine")
        self.program = program


class ProgramFailedError(LinuxError):
    """The program ran and said no. ``status`` is its exit code, ``detail`` the end of what it wrote to stderr."""

    def __init__(self, program: str, status: int, detail: str) -> None:
        super().__init__(f"{program} exited with {status}: {detail}")
        self.program = program
        self.status = status
        self.detail = detail


class ProgramTimeoutError(LinuxError):
    """The program did not end within ``timeout_s`` seconds and was killed."""

    def __init__(self, program: str, timeout_s: float) -> None:
        super().__init__(f"{program} did not end within {timeout_s:g} s")
        self.program = program
        self.timeout_s = timeout_s


class CharonUnavailableError(LinuxError):
    """charon's vici socket does not answer: it is starting, hung or dead. Try again; the caller keeps its state."""


class CharonRefusedError(LinuxError):
    """charon understood the command and refused it (bad configuration, no such SA, negotiation failed)."""


class ClockError(LinuxError):
    """The machine's clock, or the one with the battery, cannot be set."""
