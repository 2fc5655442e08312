"""`kyoten site console`: who gets a response, to which challenge, and what stays of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firmware import console
from firmware.console import Challenge
from router_agent.enrolment.request import request_for

Kyoten = Callable[..., Any]

OWN, SERVICE, NEXT = (ec.derive_private_key(1000 + number, ec.SECP256R1()) for number in range(3))
#: As in tests/unit/firmware/test_console_codes.py and tests/unit/router_agent/test_console_login.py.
CHALLENGE, RESPONSE = "04HM-ASW9-GWVV", "XN7S-ESPV-V8AQ"


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def enrol(world: Kyoten, directory: Path, site: str, key: ec.EllipticCurvePrivateKey, *, again: bool = False) -> None:
    (directory / "router.csr").write_bytes(request_for(site, pem(key)))
    world("site", "enroll", site, "--csr", str(directory / "router.csr"), *(["--force"] if again else []))


def challenge(key: ec.EllipticCurvePrivateKey = OWN, service: ec.EllipticCurvePrivateKey = SERVICE) -> str:
    return Challenge(0x0123456789, console.tag(key.public_key(), service.public_key())).text


@pytest.fixture
def enrolled(world: Kyoten, tmp_path: Path) -> Kyoten:
    """tokyo-1 has a router, and the installation the console key of the shared vector."""
    (tmp_path / "state/pki/console.key").write_bytes(pem(SERVICE))
    enrol(world, tmp_path, "tokyo-1", OWN)
    return world


def test_the_cloud_finds_the_shared_vector(enrolled: Kyoten) -> None:
    assert challenge() == CHALLENGE
    found = enrolled("--json", "site", "console", "tokyo-1", CHALLENGE.lower()).document
    assert found == {"site": "tokyo-1", "challenge": CHALLENGE, "response": RESPONSE, "answered_by": "alice"}
    assert RESPONSE in enrolled("site", "console", "tokyo-1", CHALLENGE.replace("-", "")).out


def test_who_was_given_it_and_why_is_in_the_audit_log_and_the_response_is_not(enrolled: Kyoten) -> None:
    enrolled("site", "console", "tokyo-1", CHALLENGE, "--reason", "Sato calls, no tunnel since noon")
    shown = enrolled("--json", "audit", "list", "--subject", "tokyo-1").out
    (entry,) = [
        entry
        for entry in enrolled("--json", "audit", "list", "--subject", "tokyo-1").document["audit-entries"]
        if entry["kind"] == "console_answers"
    ]
    assert (entry["actor"], entry["subject"]) == ("alice", f"tokyo-1/{CHALLENGE}")
    assert entry["after"]["reason"] == "Sato calls, no tunnel since noon"
    assert RESPONSE not in shown


@pytest.mark.parametrize(
    ("site", "given", "key", "status"),
    [
        ("tokio-1", CHALLENGE, "registry.unknown-site", 2),
        ("tokyo-1", "04HM", "access.console-malformed", 2),
        ("tokyo-1", CHALLENGE[:-1] + "W", "access.console-mistyped", 2),
        ("tokyo-1", RESPONSE, "access.console-mistyped", 2),
        ("tokyo-1", challenge(NEXT), "access.console-other-key", 2),
        ("tokyo-1", challenge(service=NEXT), "access.console-other-key", 2),
        ("osaka-1", CHALLENGE, "access.console-no-key", 3),
    ],
)
def test_what_gets_no_response(enrolled: Kyoten, site: str, given: str, key: str, status: int) -> None:
    refused = enrolled("--json", "site", "console", site, given, status=status)
    assert refused.error["key"] == key
    assert enrolled("site", "console", site, given, status=status).err.strip()
    assert enrolled("--json", "audit", "list", "--subject", site).out.count("console_answers") == 0


def test_another_tenants_site_does_not_exist_and_ones_own_does(enrolled: Kyoten) -> None:
    refused = enrolled("--json", "--tenant", "birch", "site", "console", "tokyo-1", CHALLENGE, status=2)
    assert refused.error["key"] == "registry.unknown-site"
    assert RESPONSE in enrolled("--tenant", "acme", "site", "console", "tokyo-1", CHALLENGE).out


def test_a_revoked_site_has_no_console(enrolled: Kyoten) -> None:
    enrolled("site", "revoke", "tokyo-1", "--yes")
    assert enrolled("--json", "site", "console", "tokyo-1", CHALLENGE, status=3).error["key"] == "access.revoked"


def test_a_router_that_was_replaced_has_no_console_any_more(enrolled: Kyoten, tmp_path: Path) -> None:
    for name, content in (("device-id", "ab" * 32),):
        (tmp_path / f"router.csr.{name}").write_text(f"{content}\n")
    enrol(enrolled, tmp_path, "tokyo-1", NEXT, again=True)
    assert enrolled("--json", "site", "console", "tokyo-1", CHALLENGE, status=2).error["key"] == (
        "access.console-other-key"
    )
    enrolled("site", "console", "tokyo-1", challenge(NEXT))


def test_a_console_key_that_others_can_read_is_not_used(enrolled: Kyoten, tmp_path: Path) -> None:
    (tmp_path / "state/pki/console.key").chmod(0o644)
    assert enrolled("--json", "site", "console", "tokyo-1", CHALLENGE, status=4).error["key"] == "pki.key-permissions"


def test_an_installation_of_before_gets_its_key_at_the_next_init(enrolled: Kyoten, tmp_path: Path) -> None:
    for name in ("console.key", "console.pub"):
        (tmp_path / "state/pki" / name).unlink()
    assert enrolled("--json", "site", "console", "tokyo-1", CHALLENGE, status=4).error["key"] == "pki.key-missing"
    assert enrolled("--json", "init").document["made"] == ["console"]
    assert (tmp_path / "state/pki/console.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")
