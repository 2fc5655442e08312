"""Which slot boots: the boot state, and how the boot loader reads it. Pure: bytes to dataclasses and back.

The state is a GRUB environment block (GRUB manual, "The GRUB environment block"), so that GRUB reads it by itself; all
of it stands in the first 512 octets, so one sector is one write. It is kept twice and the older copy is the one that is
overwritten: whenever the power goes, one whole copy is there. What GRUB itself has to note (this trial was begun, that
many starts did not end well) stands in a third block, the only one that GRUB writes.

A copy counts if its last variable, ``complete``, repeats all others. GRUB can compare that but cannot compute a
checksum, and two judges with different rules would some day boot one slot and report the other. `choose` is what
`images/router/boot/grub.cfg` does, word for word; a test in a virtual machine holds them together.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from firmware.errors import FirmwareError
from firmware.layout import SECTOR_BYTES, STATE_BYTES, Slot

_SIGNATURE = b"# GRUB Environment Block\n"
#: GRUB calculates with longs; far more writes than any flash takes.
SEQ_MAX = (1 << 31) - 1
#: A trial may be given up to a day.
TRIAL_MAX_S = 86_400
#: So many starts of the primary in a row that did not end well make GRUB take the other slot once.
TRIES_MAX = 3

_TRIAL_ID = re.compile(r"[0-9A-Za-z-]{1,40}\Z")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,9})\Z", re.ASCII)
_NAMES = ("seq", "primary", "trial", "trial_id", "trial_s", "good_a", "good_b")
_COMPLETE = "complete"
#: GRUB cannot tell an empty variable from a block that could not be read.
_MARK, _MARK_TEXT = "mark", "ok"


class DamagedError(FirmwareError):
    """These bytes are no boot state: never written, torn, or rotten."""


class Why(StrEnum):
    """Why a slot was booted."""

    PRIMARY = "primary"
    TRIAL = "trial"
    #: The primary could not be loaded, or did not come up three times.
    FALLBACK = "fallback"
    #: Neither copy of the state can be read.
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class Trial:
    """One start of a slot on probation. After ``seconds`` since the kernel's start without a commit it is over."""

    slot: Slot
    #: GRUB boots a trial once: it notes this before.
    id: str
    seconds: int


@dataclass(frozen=True, slots=True)
class BootState:
    """``seq`` grows by one with each write. ``good``: slots whose release was committed at some time."""

    seq: int
    primary: Slot
    trial: Trial | None = None
    good: frozenset[Slot] = frozenset()

    def with_trial(self, trial: Trial) -> "BootState":
        """The next start is a trial. Raises ValueError: the slot is the primary, or the id has a wrong form."""
        if trial.slot is self.primary:
            raise ValueError(f"slot {trial.slot} is the primary: it needs no trial")
        if _TRIAL_ID.match(trial.id) is None or not 0 < trial.seconds <= TRIAL_MAX_S:
            raise ValueError(f"no trial can be named {trial.id!r}, or take {trial.seconds} s")
        return replace(self, trial=trial)

    def committed(self, slot: Slot) -> "BootState":
        """This slot from now on; the other one stays good if it was."""
        return replace(self, primary=slot, trial=None, good=self.good | {slot})

    def abandoned(self) -> "BootState":
        """No trial."""
        return replace(self, trial=None)

    def marked(self, slot: Slot, *, good: bool) -> "BootState":
        """What is said of a slot's content. One that is no longer good is not tried, and not the primary either: a
        router that runs the other slot, because the primary did not start, is about to write over it."""
        if good:
            return replace(self, good=self.good | {slot})
        left = self.good - {slot}
        if self.primary is slot:
            return replace(self, primary=slot.other, trial=None, good=left)
        return replace(self, trial=None, good=left)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What GRUB noted: the last trial it began, and how many starts of the primary have not ended well yet."""

    trial_id: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What GRUB does: the slots in the order in which it tries to load them, and what it notes before (None: nothing).

    A trial is begun only if the note could be written.
    """

    order: tuple[tuple[Slot, Why], ...]
    trial: Trial | None
    note: Attempt | None


def render(state: BootState) -> bytes:
    """One copy, `STATE_BYTES` long. Raises ValueError: the state has values that no copy can hold."""
    if not 0 <= state.seq <= SEQ_MAX:
        raise ValueError(f"sequence number {state.seq}")
    trial = state.trial
    values = {
        "seq": str(state.seq),
        "primary": state.primary.value,
        "trial": trial.slot.value if trial else "",
        "trial_id": trial.id if trial else "",
        "trial_s": str(trial.seconds) if trial else "",
        "good_a": str(int(Slot.A in state.good)),
        "good_b": str(int(Slot.B in state.good)),
    }
    return _block({**values, _COMPLETE: _repeated(values)})


def parse(data: bytes) -> BootState:
    """The state in one copy. Raises DamagedError and nothing else."""
    values = _variables(data)
    if not {*_NAMES, _COMPLETE} <= set(values) or values[_COMPLETE] != _repeated(values):
        raise DamagedError("firmware.bootstate-damaged", place="complete")
    if not _is_number(values["seq"], SEQ_MAX) or not {values["good_a"], values["good_b"]} <= {"0", "1"}:
        raise DamagedError("firmware.bootstate-damaged", place="seq, good_a, good_b")
    if values["primary"] not in set(Slot) or values["trial"] not in {*Slot, ""}:
        raise DamagedError("firmware.bootstate-damaged", place="primary, trial")
    good = frozenset(slot for slot in Slot if values[f"good_{slot.lower()}"] == "1")
    return BootState(int(values["seq"]), Slot(values["primary"]), _trial(values), good)


def newest(copies: Sequence[bytes]) -> tuple[int, BootState]:
    """Number and content of the copy that counts. Raises DamagedError: none does."""
    found = []
    for number, data in enumerate(copies):
        try:
            found.append((number, parse(data)))
        except DamagedError:
            continue
    if not found:
        raise DamagedError("firmware.bootstate-damaged", place="copies")
    # Of two with one number the first: max() takes the first of equals, as GRUB does.
    return max(found, key=lambda item: item[1].seq)


def render_attempt(attempt: Attempt) -> bytes:
    """What GRUB would have written."""
    return _block({"trial_done": attempt.trial_id, "tries": "x" * attempt.tries, _MARK: _MARK_TEXT})


def parse_attempt(data: bytes) -> Attempt:
    """What GRUB noted. Raises DamagedError: then GRUB begins no trial and counts nothing."""
    values = _variables(data)
    tries = values.get("tries", "")
    if values.get(_MARK) != _MARK_TEXT or tries.strip("x") or len(tries) > TRIES_MAX:
        raise DamagedError("firmware.bootstate-damaged", place="attempt")
    return Attempt(values.get("trial_done", ""), len(tries))


def choose(copies: Sequence[bytes], attempt: bytes) -> Choice:
    """What GRUB does with these blocks. Raises nothing: it always boots something."""
    try:
        _number, state = newest(copies)
    except DamagedError:
        return Choice(((Slot.A, Why.BLIND), (Slot.B, Why.BLIND)), None, None)
    primary, other = (state.primary, Why.PRIMARY), (state.primary.other, Why.FALLBACK)
    try:
        noted = parse_attempt(attempt)
    except DamagedError:
        return Choice((primary, other), None, None)
    trial = state.trial
    if trial is not None and trial.id != noted.trial_id:
        return Choice(((trial.slot, Why.TRIAL), primary, other), trial, Attempt(trial.id, 0))
    if noted.tries < TRIES_MAX:
        return Choice((primary, other), None, replace(noted, tries=noted.tries + 1))
    if other[0] in state.good:
        return Choice((other, primary, other), None, replace(noted, tries=0))
    return Choice((primary, other), None, None)


def _block(values: Mapping[str, str]) -> bytes:
    text = _SIGNATURE + "".join(f"{name}={value}\n" for name, value in values.items()).encode("ascii")
    if len(text) > SECTOR_BYTES:
        raise ValueError(f"{len(text)} octets do not fit into one sector")
    return text.ljust(STATE_BYTES, b"#")


def _variables(data: bytes) -> dict[str, str]:
    """The variables of a block as GRUB's load_env sees them: lines, comments left out, the last of a name counts."""
    if len(data) != STATE_BYTES or not data.startswith(_SIGNATURE):
        raise DamagedError("firmware.bootstate-damaged", place="signature")
    try:
        lines = data[len(_SIGNATURE) :].decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise DamagedError("firmware.bootstate-damaged", place="text") from None
    return {name: value for name, sign, value in (line.partition("=") for line in lines if line[:1] != "#") if sign}


def _repeated(values: Mapping[str, str]) -> str:
    return ".".join(values[name] for name in _NAMES)


def _trial(values: Mapping[str, str]) -> Trial | None:
    if not values["trial"]:
        return None
    if _TRIAL_ID.match(values["trial_id"]) is None or not _is_number(values["trial_s"], TRIAL_MAX_S):
        raise DamagedError("firmware.bootstate-damaged", place="trial_id, trial_s")
    return Trial(Slot(values["trial"]), values["trial_id"], int(values["trial_s"]))


def _is_number(text: str, largest: int) -> bool:
    return _NUMBER.match(text) is not None and int(text) <= largest
