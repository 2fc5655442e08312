"""What a module holds, by its kind, read strictly. Pure; whoever publishes one and whoever takes one look alike.

ca-bundle     certificates of authorities (PEM)
modem-table   ``{"modems": {"<model as AT+CGMM says it>": {"init": ["AT...", ...]}}}``: what a model is told first
plugin        a program of one file of Python
"""

import json
import re

from cryptography import x509

#: Larger is no module, in bytes: as it travels, and unpacked.
MODULE_MAX_BYTES = 4 << 20
CONTENT_MAX_BYTES = 16 << 20

CERTIFICATES_MAX = 500
MODEMS_MAX = 200
COMMANDS_MAX = 20
_COMMAND = re.compile(r"AT[ -~]{0,120}\Z")
#: What no table tells a modem, on which a site may hang: the radio (CFUN), the network's choice (COPS), the SIM's PIN
#: and locks, the line's speed, calls, escapes from them, what is kept over a restart, and resets (V.250, TS 27.007).
_FORBIDDEN = re.compile(
    r"(\A|;)(AT)?([+^!#*](CFUN|COPS|CPIN|CLCK|CPWD|IPR|ICF|RESET|CPOF)\b|[&][FWY]|[ZDHAO](\d|;|\Z)|D)", re.I
)


def check(kind: str, content: bytes, *, name: str) -> None:
    """Raises ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError: it is not what its kind says,
    or the kind is unknown."""
    match kind:
        case "ca-bundle":
            _authorities(content)
        case "modem-table":
            parse_modems(content)
        case "plugin":
            compile(content, name, "exec", dont_inherit=True)
        case _:
            raise ValueError(kind)


#: What `check` raises.
WRONG = (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError)


def parse_modems(content: bytes) -> dict[str, tuple[str, ...]]:
    """Model -> commands of a modem table. Raises ValueError, TypeError, KeyError: it is none."""
    found = json.loads(content)["modems"]
    if not isinstance(found, dict) or len(found) > MODEMS_MAX:
        raise ValueError("modems")
    table = {}
    for model, entry in found.items():
        commands = entry["init"]
        if not isinstance(commands, list) or len(commands) > COMMANDS_MAX:
            raise ValueError("init")
        for command in commands:
            if not isinstance(command, str) or not _COMMAND.match(command) or _FORBIDDEN.search(command[2:]):
                raise ValueError(f"init: {str(command)[:60]!r} is no command, or one that no table may give")
        table[str(model)[:80]] = tuple(commands)
    return table


def _authorities(content: bytes) -> None:
    certificates = x509.load_pem_x509_certificates(content)
    if len(certificates) > CERTIFICATES_MAX:
        raise ValueError("too many")
    for certificate in certificates:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            raise ValueError("not an authority")
