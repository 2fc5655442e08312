"""A pause for Python's garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Let no cyclic garbage be looked for within. For bursts of allocation of which everything survives: reading a
    large policy, the collector takes as long again as the reading.

    The pause is the process's. A second thread can end it early, which costs time and nothing else.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
