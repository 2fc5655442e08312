"""A router's whole identity as one archive: what it makes itself and what the cloud gives it for that.

The product keeps the two apart. Worlds are filled before anything runs in them, and a thief has both: so here they are
one file, which agents read as the bundles of before.
"""

import secrets
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.pki import bundle, enrolment, requests
from cloudside.registry import sites
from cloudside.registry.callers import OPERATOR
from linux.files import write_durably
from router_agent.enrolment.request import make_host_key, make_request


def enrol(session: Session, config: Config, *, site_id: str, output: Path, now: datetime) -> enrolment.Admitted:
    """Enrol a router with fresh keys and write everything it has then. The session must be a writing one."""
    made, host_key, device_id = make_request(site_id), make_host_key(site_id), secrets.token_hex(32)
    applicant = requests.read_applicant(made.csr_pem, device_id, host_key.public)
    admitted = enrolment.admit(session, config, OPERATOR, site_id=site_id, applicant=applicant, now=now)
    own = {
        "site.key": made.key_pem,
        "device_id": f"{device_id}\n".encode(),
        "ssh_host_ed25519_key": host_key.private,
        "ssh_host_ed25519_key.pub": f"{host_key.public}\n".encode(),
    }
    members = [(name, content) for name, content in admitted.files.items() if name != bundle.CONFIGURATION]
    description = enrolment.describe(config, sites.get(session, OPERATOR, site_id))
    write_durably(output, bundle.pack(description, [*members, *own.items()], now=now))
    return admitted
