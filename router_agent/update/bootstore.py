"""The boot state on its partition: read, changed, read back. `firmware.bootstate` says what the bytes mean.

Nothing is ever written over the copy that counts: the other one is written in place, past the cache, and is the newer
one from the moment its sector is there. A file would not do: whoever replaces one, as grub-editenv does, has moments in
which neither the old nor the new content is found, and GRUB follows no journal.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from firmware import bootstate, layout
from firmware.bootstate import Attempt, BootState, DamagedError, Trial
from firmware.layout import ATTEMPT_SECTOR, SECTOR_BYTES, STATE_BYTES, STATE_COPY_SECTORS, Slot
from router_agent.errors import StateError
from router_agent.update import direct

DEVICE = Path(layout.device(layout.BOOTSTATE))


class BootStore:
    """The boot state of this machine. Several processes may have one: changes exclude each other.

    Every method raises StateError: the partition is not there, cannot be read or written, or (all but `booted_ok`)
    neither copy is whole.
    """

    def __init__(self, path: Path = DEVICE) -> None:
        self._path = path

    def read(self) -> BootState:
        """The state that counts."""
        with self._open(os.O_RDONLY) as descriptor:
            return self._newest(descriptor)[1]

    def attempted(self) -> str | None:
        """The trial that GRUB began last, "" if none ever; None: its note is damaged, and it begins none."""
        with self._open(os.O_RDONLY) as descriptor:
            try:
                return bootstate.parse_attempt(_block(descriptor, ATTEMPT_SECTOR)).trial_id
            except DamagedError:
                return None

    def begin_trial(self, slot: Slot, trial_id: str, seconds: float) -> None:
        """The next start tries this slot, once; its guard gives it so many seconds since the kernel's start.

        Raises ValueError: the slot is the primary, or the id has been used for the last trial.
        """
        trial = Trial(slot, trial_id, int(seconds))
        with self._open(os.O_RDWR) as descriptor:
            try:
                noted = bootstate.parse_attempt(_block(descriptor, ATTEMPT_SECTOR))
            except DamagedError:
                # GRUB begins no trial without its note.
                noted = Attempt()
                self._write(descriptor, ATTEMPT_SECTOR, bootstate.render_attempt(noted))
            if noted.trial_id == trial_id:
                raise ValueError(f"trial {trial_id!r} was begun before")
            self._change(descriptor, lambda state: state.with_trial(trial))

    def commit(self, slot: Slot) -> None:
        """This slot from now on."""
        with self._open(os.O_RDWR) as descriptor:
            self._change(descriptor, lambda state: state.committed(slot))

    def abandon(self) -> None:
        """No trial any more, and its slot is not one to fall back to."""
        with self._open(os.O_RDWR) as descriptor:
            self._change(descriptor, _abandoned)

    def mark(self, slot: Slot, *, good: bool) -> None:
        """What is known of a slot's content. One that is not good is started only if the other cannot be loaded."""
        with self._open(os.O_RDWR) as descriptor:
            self._change(descriptor, lambda state: state.marked(slot, good=good))

    def booted_ok(self, running: Slot) -> None:
        """This start has ended well: GRUB counts from nought again. A state or a note that is damaged is made anew."""
        with self._open(os.O_RDWR) as descriptor:
            try:
                self._newest(descriptor)
            except StateError:
                state = BootState(1, running, None, frozenset({running}))
                for number in range(len(STATE_COPY_SECTORS)):
                    self._write(
                        descriptor, STATE_COPY_SECTORS[number], bootstate.render(replace(state, seq=number + 1))
                    )
            try:
                noted = bootstate.parse_attempt(_block(descriptor, ATTEMPT_SECTOR))
            except DamagedError:
                # Which trial was begun last is lost: one that is set up now counts as begun.
                trial = self._newest(descriptor)[1].trial
                noted = Attempt(trial.id if trial is not None else "", 1)
            if noted.tries:
                self._write(descriptor, ATTEMPT_SECTOR, bootstate.render_attempt(replace(noted, tries=0)))

    def _change(self, descriptor: int, change: Callable[[BootState], BootState]) -> None:
        number, before = self._newest(descriptor)
        after = change(before)
        if after == before:
            return
        other = (number + 1) % len(STATE_COPY_SECTORS)
        self._write(descriptor, STATE_COPY_SECTORS[other], bootstate.render(replace(after, seq=before.seq + 1)))

    def _newest(self, descriptor: int) -> tuple[int, BootState]:
        try:
            return bootstate.newest([_block(descriptor, sector) for sector in STATE_COPY_SECTORS])
        except DamagedError:
            raise StateError("agent.boot-state-damaged", path=str(self._path)) from None

    def _write(self, descriptor: int, sector: int, data: bytes) -> None:
        offset = sector * SECTOR_BYTES
        direct.write(descriptor, offset, data.ljust(direct.BLOCK_BYTES, b"\0"))
        if _block(descriptor, sector) != data:
            raise StateError("agent.boot-state-unwritable", path=str(self._path), reason=f"sector {sector}")

    @contextmanager
    def _open(self, flags: int) -> Iterator[int]:
        try:
            with direct.opened(self._path, flags) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_SH if flags == os.O_RDONLY else fcntl.LOCK_EX)
                yield descriptor
        except OSError as error:
            key = "agent.boot-state-unreadable" if flags == os.O_RDONLY else "agent.boot-state-unwritable"
            reason = error.strerror or type(error).__name__
            raise StateError(key, path=str(self._path), reason=reason) from error


def _block(descriptor: int, sector: int) -> bytes:
    return direct.read(descriptor, sector * SECTOR_BYTES)[:STATE_BYTES]


def _abandoned(state: BootState) -> BootState:
    return state if state.trial is None else state.marked(state.trial.slot, good=False)
