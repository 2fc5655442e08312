"""What a router knows of the time without asking: when its image was built, when its certificates were signed."""

import logging
from datetime import datetime

from cryptography import x509

from router_agent.clock import judge
from router_agent.clock.judge import Bounds
from router_agent.errors import AgentError
from router_agent.identity import Identity
from router_agent.update import appliance

#: The router's own first: it is good for the longest of what it needs.
_CERTIFICATES = ("site.crt", "tenant-authority.crt", "cloud-authority.crt")

_log = logging.getLogger(__name__)


def bounds(identity: Identity | None) -> Bounds:
    """None: the router is not enrolled. What cannot be read says nothing."""
    passed: list[datetime] = []
    ends: datetime | None = None
    try:
        passed.append(appliance.built_at())
    except (OSError, ValueError) as error:
        _log.info("not known when this image was built: %s", error)
    if identity is not None:
        for name in _CERTIFICATES:
            try:
                found = x509.load_pem_x509_certificate(identity.text(name).encode())
            except (AgentError, ValueError) as error:
                _log.error("%s says nothing of the time: %s", name, error)
                continue
            passed.append(found.not_valid_before_utc)
            ends = found.not_valid_after_utc if name == _CERTIFICATES[0] else ends
    return judge.bounds(passed, ends)
