"""Requests: the site's name, the key's own signature, nothing secret in texts."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from router_agent.enrolment.request import make_host_key, make_request, request_for


def test_a_request_names_the_site_and_proves_the_key() -> None:
    made = make_request("tokyo-1")
    request = x509.load_pem_x509_csr(made.csr_pem)
    key = serialization.load_pem_private_key(made.key_pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert request.is_signature_valid
    assert [name.value for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["tokyo-1"]
    assert request.public_key() == key.public_key()
    assert "PRIVATE" not in repr(made)


def test_a_second_try_asks_for_the_same_key_and_two_requests_for_two() -> None:
    first, second = make_request("tokyo-1"), make_request("tokyo-1")
    again = x509.load_pem_x509_csr(request_for("tokyo-1", first.key_pem))
    assert again.public_key() == x509.load_pem_x509_csr(first.csr_pem).public_key()
    assert again.public_key() != x509.load_pem_x509_csr(second.csr_pem).public_key()


def test_a_host_key_is_what_openssh_reads() -> None:
    made = make_host_key("tokyo-1")
    serialization.load_ssh_private_key(made.private, password=None)
    assert made.public.startswith("ssh-ed25519 ")
    assert made.public.endswith(" tokyo-1")
    assert "PRIVATE" not in repr(made)


def test_another_kind_of_key_is_refused() -> None:
    other = make_host_key("tokyo-1").private
    with pytest.raises(ValueError, match=r"."):
        request_for("tokyo-1", other)
