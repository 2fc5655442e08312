"""What an installation needs before anything can connect: authorities, gateway and endpoint certificates, keys.

Running it again makes what is missing or about to end and keeps the rest. The worker renews by itself (renew_own).
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import ConfigurationError
from cloudside.pki import address_blocks, console_key, issuing, revocation_lists
from cloudside.pki.authority import IPSEC_IKE, SERVER_AUTH, Address, Authority, Leaf, is_due
from cloudside.pki.ssh_keys import make_pair, public_line
from cloudside.pki.store import KeyStore, read_secret, write_secret
from cloudside.registry import certificates

#: The IKE identity that all gateways share, so that a router may come back at any of them.
GATEWAY_IDENTITY = "vpn.kyoten"
#: The TLS name of the agents' endpoint, whatever its address.
ENDPOINT_NAME = "agent.kyoten"
#: How the operators' key shows in a router's authorized_keys.
OPERATOR_COMMENT = "kyoten-operator"
#: The endpoint's files in the store.
ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was made, and what was there and stays: ``root``, ``cloud``, ``gateway-gw1``, ``endpoint``, ``ssh``,
    ``console``."""

    made: tuple[str, ...]
    kept: tuple[str, ...]


def initialise(session: Session, config: Config, *, now: datetime) -> Initialised:
    """Make what is missing. The session must be a writing one.

    Raises ConfigurationError: a key that the registry has a certificate for is missing, open to others or damaged; the
    state directory cannot be written.
    """
    store = KeyStore.of(config)
    made: list[str] = []
    kept: list[str] = []
    if issuing.find_authority_certificate(session, issuing.ROOT) is None:
        issuing.make_root(session, store, now=now)
        made.append(issuing.ROOT)
    else:
        root = issuing.load_authority_certificate(session, issuing.ROOT)
        if store.has_root_key():  # it may be locked away: it is needed to make an authority and for nothing else
            issuing.load_authority(session, store, issuing.ROOT)
        store.publish(issuing.ROOT, (root,))
        kept.append(issuing.ROOT)
    if issuing.find_authority_certificate(session, issuing.CLOUD) is None:
        cloud = issuing.make_authority(session, store, name=issuing.CLOUD, block=config.gateway.overlay, now=now)
        made.append(issuing.CLOUD)
    else:
        cloud = issuing.load_authority(session, store, issuing.CLOUD)
        store.publish(cloud.name, (cloud.certificate,))
        kept.append(issuing.CLOUD)
    for name, fresh in _ensure_leaves(session, config, store, cloud, now=now):
        (made if fresh else kept).append(name)
    (made if _ensure_operator_key(store) else kept).append("ssh")
    (made if console_key.ensure(store) else kept).append(console_key.NAME)
    return Initialised(tuple(made), tuple(kept))


def renew_own(session: Session, config: Config, *, now: datetime) -> list[str]:
    """This node's gateway and endpoint certificates, anew where a third of the lifetime or less is left; which.

    The one before is not revoked: whoever has it loaded goes on until told. Raises as initialise does.
    """
    store = KeyStore.of(config)
    cloud = issuing.load_authority(session, store, issuing.CLOUD)
    return [name for name, fresh in _ensure_leaves(session, config, store, cloud, now=now) if fresh]


def _ensure_leaves(
    session: Session, config: Config, store: KeyStore, cloud: Authority, *, now: datetime
) -> list[tuple[str, bool]]:
    return [
        (name, _ensure_leaf(session, store, cloud, name=name, kind=kind, leaf=leaf, now=now))
        for name, kind, leaf in (
            (gateway_file(config.gateway.name), "gateway", _gateway_leaf(config)),
            (ENDPOINT, "server", _endpoint_leaf(config)),
        )
    ]


def gateway_file(gateway: str) -> str:
    """The name of a gateway's files in the store."""
    return f"gateway-{gateway}"


def _gateway_leaf(config: Config) -> Leaf:
    return Leaf(
        common_name=config.gateway.name,
        dns_names=(config.gateway.name, GATEWAY_IDENTITY),
        usages=(SERVER_AUTH, IPSEC_IKE),
        blocks=(config.gateway.overlay,),
    )


def _endpoint_leaf(config: Config) -> Leaf:
    # No address block: charon then refuses this certificate as an IKE peer, so a stolen one opens no tunnel.
    return Leaf(
        common_name=ENDPOINT_NAME,
        dns_names=(ENDPOINT_NAME,),
        usages=(SERVER_AUTH,),
        addresses=endpoint_addresses(config),
    )


def endpoint_addresses(config: Config) -> tuple[Address, ...]:
    """The addresses that routers find the agents' endpoint at; listening on all means the service and public ones."""
    found: list[Address] = []
    for listen in config.web.listen:
        if listen.address.is_unspecified:
            found.append(config.gateway.service_address)
            found += _literal_addresses(config.gateway.public_addresses)
        else:
            found.append(listen.address)
    return tuple(dict.fromkeys(found))


def _literal_addresses(texts: tuple[str, ...]) -> list[Address]:
    found: list[Address] = []
    for text in texts:
        try:
            found.append(ip_address(text))
        except ValueError:
            continue  # a host name: covered by the endpoint's own name
    return found


def _ensure_leaf(
    session: Session, store: KeyStore, cloud: Authority, *, name: str, kind: str, leaf: Leaf, now: datetime
) -> bool:
    known = certificates.current(session, authority=cloud.name, kind=kind, subject=leaf.common_name)
    key = store.read_or_make_key(name) if known is None else store.read_key(name)
    found = certificates.counting(session, authority=cloud.name, kind=kind, subject=leaf.common_name, now=now)
    # Made while our clock was ahead: nobody else takes it yet, and being the newest it would hide those that count.
    early = [record for record in found if record.not_before > now]
    revocation_lists.revoke(session, cloud, early, at=now, now=now)
    # Several machines share the endpoint's name: this one's need not be the newest.
    for record in reversed(found):
        certificate = issuing.parse(record)
        if record not in early and key.public_key() == certificate.public_key() and _says(certificate, leaf, now):
            store.publish(name, (certificate, cloud.certificate))
            return bool(early)
    certificate = issuing.issue(session, cloud, leaf, kind=kind, key=key.public_key(), now=now)
    store.publish(name, (certificate, cloud.certificate))
    return True


def _says(certificate: x509.Certificate, leaf: Leaf, now: datetime) -> bool:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        not is_due(certificate, now)
        and set(names.get_values_for_type(x509.DNSName)) == set(leaf.dns_names)
        and set(names.get_values_for_type(x509.IPAddress)) == set(leaf.addresses)
        and (address_blocks.read(certificate) or ()) == leaf.blocks
    )


def _ensure_operator_key(store: KeyStore) -> bool:
    path = store.operator_key_path()
    public = path.with_name(f"{path.name}.pub")
    # Every enrolled router trusts the public half, so a lost private half is never quietly replaced by a new pair.
    if path.exists() or public.exists():
        try:
            line = public_line(read_secret(path), OPERATOR_COMMENT)
        except ValueError:
            raise ConfigurationError("pki.key-damaged", path=str(path)) from None
        if not public.exists():
            write_secret(public, f"{line}\n".encode(), mode=0o644)
        return False
    pair = make_pair(OPERATOR_COMMENT)
    write_secret(path, pair.private)
    write_secret(public, f"{pair.public}\n".encode(), mode=0o644)
    return True
