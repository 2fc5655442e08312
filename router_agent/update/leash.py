"""A process that ends when the one that started it does: an agent that was killed must leave nothing behind."""

import ctypes
import signal

#: linux/prctl.h.
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends (prctl(2)). Also between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
