"""Is a module's content what its kind says? Looked at before it is in use. Pure."""

import json
import re

from cryptography import x509

from router_agent.problems import Problem

PEM_MAX = 500
MODEMS_MAX = 200
_COMMAND = re.compile(r"AT[ -~]{0,120}\Z")


def wrong(kind: str, content: bytes, *, name: str, version: str) -> Problem | None:
    """What is wrong with it; None: nothing."""
    try:
        match kind:
            case "ca-bundle":
                _authorities(content)
            case "modem-table":
                parse_modems(content)
            case "plugin":
                compile(content, name, "exec", dont_inherit=True)
            case _:
                raise ValueError(kind)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"[:150]
        return Problem("agent.module-damaged", {"module": name, "version": version, "reason": reason})
    return None


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
        if not isinstance(commands, list) or len(commands) > 20:
            raise ValueError("init")
        if not all(isinstance(command, str) and _COMMAND.match(command) for command in commands):
            raise ValueError("init")
        table[str(model)[:80]] = tuple(commands)
    return table


def _authorities(content: bytes) -> None:
    certificates = x509.load_pem_x509_certificates(content)
    if len(certificates) > PEM_MAX:
        raise ValueError("too many")
    for certificate in certificates:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            raise ValueError("not an authority")
