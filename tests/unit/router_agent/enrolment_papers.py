"""A small cloud's authorities, for tests of what a router takes and what not."""

import json
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloudside.pki import authority
from cloudside.pki.authority import Authority, Leaf
from router_agent.enrolment.request import make_host_key, make_request

SITE = "tokyo-1"
OVERLAY = ip_network("10.10.1.0/24")
DOCUMENT: dict[str, object] = {
    "format": 1,
    "site": SITE,
    "tenant": "acme",
    "overlay": "10.10.1.0/24",
    "lan": "192.168.1.0/24",
    "gateways": ["203.0.113.2"],
    "gateway_identity": "vpn.kyoten",
    "service_address": "10.255.255.1",
    "reachable": "10.0.0.0/8",
    "endpoints": [{"address": "10.255.255.1", "port": 8443, "in_tunnel": True}],
    "endpoint_name": "agent.kyoten",
    "heartbeat_s": 30,
}


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(slots=True)
class Papers:
    """Issues what a cloud issues, and, when told to attack, what it would not."""

    root: Authority
    cloud: Authority
    tenant: Authority
    #: What answers get wrong on purpose: the site in the certificate, its block, its public key.
    common_name: str | None = None
    block: str | None = None
    key: ec.EllipticCurvePublicKey | None = None

    def site_certificate(self, csr: bytes, overlay: str = str(OVERLAY), *, now: datetime | None = None) -> bytes:
        """As the cloud signs it: the request gives the key and nothing else."""
        asked = x509.load_pem_x509_csr(csr)
        name = self.common_name or SITE
        public = self.key or asked.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        leaf = Leaf(name, (name,), (authority.CLIENT_AUTH,), blocks=(ip_network(self.block or overlay),))
        made = authority.make_leaf(
            self.tenant, leaf, key=public, now=now or datetime.now(UTC), serial=secrets.randbits(100)
        )
        return pem(made)

    def files(self, csr: bytes, **document: Any) -> dict[str, bytes]:
        """The files of an answer to this request."""
        whole = {**DOCUMENT, **document}
        return {
            "bundle.json": json.dumps(whole).encode(),
            "site.crt": self.site_certificate(csr, str(whole["overlay"])),
            "tenant-authority.crt": pem(self.tenant.certificate),
            "cloud-authority.crt": pem(self.cloud.certificate),
            "root.crt": pem(self.root.certificate),
            "authorized_keys": b"ssh-ed25519 AAAA operator",
        }

    def old_bundle(self, **document: Any) -> dict[str, bytes]:
        """The members of a bundle of before: the cloud made the keys."""
        site = str(document.get("site", SITE))
        asked, host_key = make_request(site), make_host_key(site)
        before, self.common_name = self.common_name, site
        files = self.files(asked.csr_pem, **document)
        self.common_name = before
        return {
            **files,
            "site.key": asked.key_pem,
            "device_id": b"0f" * 32,
            "ssh_host_ed25519_key": host_key.private,
            "ssh_host_ed25519_key.pub": host_key.public.encode(),
        }

    def attacked(self, **wrong: Any) -> "Papers":
        """The same authorities, told to answer wrongly."""
        return replace(self, **wrong)


def make_papers() -> Papers:
    now = datetime.now(UTC)

    def below(root: Authority, name: str, prefix: IPv4Network) -> Authority:
        own = _key()
        made = authority.make_authority(
            root, name=name, block=prefix, key=own.public_key(), now=now, serial=secrets.randbits(100)
        )
        return Authority(name, made, own)

    root_key = _key()
    root = Authority("root", authority.make_root(root_key, now=now, serial=secrets.randbits(100)), root_key)
    return Papers(
        root, below(root, "cloud", IPv4Network("10.0.0.0/8")), below(root, "tenant-acme", IPv4Network("10.10.0.0/16"))
    )
