"""Is a module's content what its kind says? Looked at before it is in use. Pure."""

from cryptography import x509

from router_agent.problems import Problem
from router_agent.update.modem_table import parse_modems

PEM_MAX = 500


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


def _authorities(content: bytes) -> None:
    certificates = x509.load_pem_x509_certificates(content)
    if len(certificates) > PEM_MAX:
        raise ValueError("too many")
    for certificate in certificates:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            raise ValueError("not an authority")
