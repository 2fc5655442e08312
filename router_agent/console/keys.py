"""The keys that a login at the console takes, read out of what the router was enrolled with."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from router_agent import bundle
from router_agent.console.login import Keys
from router_agent.errors import StateError
from router_agent.identity import Identity


def read(identity: Identity) -> Keys | None:
    """The keys; None: the cloud has not given its console key yet. Raises StateError: one is damaged."""
    theirs = public(identity)
    if theirs is None:
        return None
    path = identity.path("site.key")
    try:
        own = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise StateError("agent.identity-damaged", path=str(path), reason=type(error).__name__) from error
    if not isinstance(own, ec.EllipticCurvePrivateKey) or own.curve.name != theirs.curve.name:
        raise StateError("agent.identity-damaged", path=str(path), reason="its curve")
    return Keys(identity.enrolment.site, own, theirs)


def public(identity: Identity) -> ec.EllipticCurvePublicKey | None:
    """The service's console key. Raises StateError: it is damaged."""
    path = identity.path(bundle.CONSOLE_KEY)
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateError("agent.identity-damaged", path=str(path), reason=str(error)[:200]) from error


def parse(pem: bytes) -> ec.EllipticCurvePublicKey:
    """A console key as the cloud writes it. Raises ValueError: it is none."""
    found = serialization.load_pem_public_key(pem)
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP256R1):
        raise ValueError("no key on P-256")
    return found
