"""Is a module's content what its kind says? Looked at before it is in use. Pure."""

from firmware import module_content
from router_agent.problems import Problem


def wrong(kind: str, content: bytes, *, name: str, version: str) -> Problem | None:
    """What is wrong with it; None: nothing."""
    try:
        module_content.check(kind, content, name=name)
    except module_content.WRONG as error:
        reason = f"{type(error).__name__}: {error}"[:150]
        return Problem("agent.module-damaged", {"module": name, "version": version, "reason": reason})
    return None
