"""The table of modems, content of a ``modem-table``: what a model is told before its SIM is looked at. Pure."""

import json
import re

MODEMS_MAX = 200
COMMANDS_MAX = 20
_COMMAND = re.compile(r"AT[ -~]{0,120}\Z")


def parse_modems(content: bytes) -> dict[str, tuple[str, ...]]:
    """The table: ``{"modems": {"<model as AT+CGMM says it>": {"init": ["AT...", ...]}}}``.

    Raises ValueError, TypeError, KeyError: it is none.
    """
    found = json.loads(content)["modems"]
    if not isinstance(found, dict) or len(found) > MODEMS_MAX:
        raise ValueError("modems")
    table = {}
    for model, entry in found.items():
        commands = entry["init"]
        if not isinstance(commands, list) or len(commands) > COMMANDS_MAX:
            raise ValueError("init")
        if not all(isinstance(command, str) and _COMMAND.match(command) for command in commands):
            raise ValueError("init")
        table[str(model)[:80]] = tuple(commands)
    return table
