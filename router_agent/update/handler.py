"""What RAUC asks of the boot loader (``bootloader=custom``; RAUC 1.8, src/bootchooser.c), as a program of its own.

    get-primary | get-current | set-primary <slot> | get-state <slot> | set-state <slot> good|bad | booted-ok

RAUC believes that a slot it has installed is the primary from then on. Here it never becomes that by RAUC's word:
``set-primary`` sets up a trial. A slot that RAUC calls good is one that can be booted, which our state says of slots
that were committed: so a slot on trial is good to RAUC, too.

RAUC calls this some eight times for one installation: nothing heavy is imported.
"""

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from firmware.layout import Slot
from router_agent.errors import StateError
from router_agent.update import slots
from router_agent.update.bootstore import DEVICE, BootStore
from router_agent.update.slots import Booted

#: Seconds for a trial that somebody begins by hand with RAUC.
TRIAL_S = 1800.0
#: The update machine's own name for the trial, where it lets RAUC begin it.
TRIAL_ID_VARIABLE = "KYOTEN_TRIAL_ID"

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def answer(words: Sequence[str], store: BootStore, booted: Booted | None, trial_id: str) -> str:
    """What to print. Raises StateError, and ValueError: that is no question of RAUC's."""
    match list(words):
        case ["get-primary"]:
            state = store.read()
            return state.trial.slot if state.trial is not None else state.primary
        case ["get-current"]:
            return "" if booted is None else booted.slot
        case ["get-state", name]:
            state = store.read()
            on_trial = state.trial is not None and state.trial.slot is Slot(name)
            return "good" if on_trial or Slot(name) in state.good else "bad"
        case ["set-primary", name]:
            if store.read().primary is not Slot(name):
                store.begin_trial(Slot(name), trial_id, TRIAL_S)
        case ["set-state", name, "good" | "bad" as said]:
            # What ran well is for the update machine to say.
            if said == "bad":
                store.mark(Slot(name), good=False)
        case ["booted-ok"]:
            if booted is not None:
                store.booted_ok(booted.slot)
        case _:
            raise ValueError("unknown question")
    return ""


def main(
    argv: Sequence[str] | None = None,
    *,
    device: Path = DEVICE,
    booted: Callable[[], Booted | None] = slots.booted,
) -> int:
    """The program; its exit status is what RAUC looks at."""
    words = sys.argv[1:] if argv is None else argv
    trial_id = os.environ.get(TRIAL_ID_VARIABLE) or secrets.token_hex(8)
    try:
        said = answer(words, BootStore(device), booted(), trial_id)
    except StateError as error:
        sys.stderr.write(f"boot-handler: {error}\n")
        return EXIT_FAILED
    except ValueError as error:
        sys.stderr.write(f"boot-handler: {' '.join(words)}: {error}\n")
        return EXIT_USAGE
    if said:
        sys.stdout.write(f"{said}\n")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
