from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from pki_installation import Installation, router_keys

from cloudside.errors import ConfigurationError, InputError
from cloudside.pki import revocation
from cloudside.pki.enrolment import enrol
from cloudside.registry import certificates, sites
from cloudside.registry.callers import OPERATOR, Caller


def _numbers(installation: Installation) -> dict[str, int]:
    with installation.database.read() as session:
        return {kept.authority: kept.number for kept in certificates.revocation_lists(session)}


@pytest.fixture
def enrolled(installation: Installation, tmp_path: Path) -> Installation:
    with installation.database.write() as session:
        output = tmp_path / "tokyo-1.tar"
        enrol(
            session,
            installation.config,
            OPERATOR,
            site_id="tokyo-1",
            applicant=router_keys().applicant,
            output=output,
            now=installation.now,
        )
    return installation


def test_every_authority_has_a_list(installation: Installation) -> None:
    assert _numbers(installation) == {"root": 1, "cloud": 1, "tenant-acme": 1, "tenant-zenith": 1}
    with installation.database.read() as session:
        for kept in certificates.revocation_lists(session):
            decoded = x509.load_der_x509_crl(kept.der)
            assert decoded.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == kept.number
            assert decoded.next_update_utc == kept.next_update
            assert kept.next_update - installation.now <= timedelta(days=365 if kept.authority == "root" else 7)


def test_revoked_site_is_on_its_tenants_list_only(enrolled: Installation) -> None:
    for _ in range(2):  # repeating it signs nothing more
        with enrolled.database.write() as session:
            revocation.revoke_site(session, enrolled.config, OPERATOR, site_id="tokyo-1", now=enrolled.now)
    assert _numbers(enrolled) == {"root": 1, "cloud": 1, "tenant-acme": 2, "tenant-zenith": 1}
    with enrolled.database.read() as session:
        assert sites.get(session, OPERATOR, "tokyo-1").revoked_at == enrolled.now
        kept = certificates.revocation_list(session, "tenant-acme")
        assert kept is not None
        (entry,) = x509.load_der_x509_crl(kept.der)
        record = certificates.by_serial(session, f"{entry.serial_number:x}")
        assert record is not None
        assert (record.subject, record.revoked_at) == ("tokyo-1", enrolled.now)


def test_revoking_without_the_authoritys_key_does_nothing(enrolled: Installation) -> None:
    (enrolled.pki / "tenant-acme.key").unlink()
    with pytest.raises(ConfigurationError, match="key-missing"), enrolled.database.write() as session:
        revocation.revoke_site(session, enrolled.config, OPERATOR, site_id="tokyo-1", now=enrolled.now)
    with enrolled.database.read() as session:
        assert sites.get(session, OPERATOR, "tokyo-1").revoked_at is None


def test_another_tenants_site_cannot_be_revoked(enrolled: Installation) -> None:
    with pytest.raises(InputError, match="unknown-site"), enrolled.database.write() as session:
        revocation.revoke_site(session, enrolled.config, Caller("zenith"), site_id="tokyo-1", now=enrolled.now)


def test_site_that_was_never_enrolled_can_be_revoked(installation: Installation) -> None:
    with installation.database.write() as session:
        revocation.revoke_site(session, installation.config, OPERATOR, site_id="osaka-1", now=installation.now)
    assert _numbers(installation)["tenant-zenith"] == 1


def test_lists_are_renewed_before_they_end(installation: Installation) -> None:
    with installation.database.write() as session:
        assert revocation.renew_expiring(session, installation.config, now=installation.now) == revocation.Renewed(
            (), ()
        )
        later = installation.now + timedelta(days=3, minutes=1)
        renewed = revocation.renew_expiring(session, installation.config, now=later).lists
    assert [kept.authority for kept in renewed] == ["cloud", "tenant-acme", "tenant-zenith"]
    assert _numbers(installation) == {"root": 1, "cloud": 2, "tenant-acme": 2, "tenant-zenith": 2}
    assert all(kept.next_update > later + timedelta(days=6) for kept in renewed)


def test_expired_certificates_leave_the_list(enrolled: Installation) -> None:
    with enrolled.database.write() as session:
        revocation.revoke_site(session, enrolled.config, OPERATOR, site_id="tokyo-1", now=enrolled.now)
        later = enrolled.now + timedelta(days=366)
        renewed = revocation.renew_expiring(session, enrolled.config, now=later).lists
    lists = {kept.authority: x509.load_der_x509_crl(kept.der) for kept in renewed}
    assert len(lists["tenant-acme"]) == 0


def test_a_list_signed_while_the_clock_was_years_ahead_is_signed_again(enrolled: Installation) -> None:
    ahead = enrolled.now + timedelta(days=800)
    with enrolled.database.write() as session:
        revocation.revoke_site(session, enrolled.config, OPERATOR, site_id="tokyo-1", now=enrolled.now)
        lost = revocation.renew_expiring(session, enrolled.config, now=ahead).lists
        mended = revocation.renew_expiring(session, enrolled.config, now=enrolled.now).lists
        assert revocation.renew_expiring(session, enrolled.config, now=enrolled.now).lists == ()
    assert [kept.authority for kept in lost] == ["cloud", "root", "tenant-acme", "tenant-zenith"]
    assert [kept.authority for kept in mended] == [kept.authority for kept in lost]
    with enrolled.database.read() as session:
        kept = certificates.revocation_list(session, "tenant-acme")
    assert kept is not None and len(x509.load_der_x509_crl(kept.der)) == 1


def test_roots_list_waits_for_its_key_until_that_is_trouble(installation: Installation) -> None:
    key = installation.pki / "root.key"
    content = key.read_bytes()
    key.unlink()
    (installation.pki / "tenant-acme.key").unlink()
    due, late = installation.now + timedelta(days=250), installation.now + timedelta(days=340)
    with installation.database.write() as session:
        early = revocation.renew_expiring(session, installation.config, now=due)
        assert [trouble.key for trouble in early.troubles] == ["pki.key-missing"]
        found = revocation.renew_expiring(session, installation.config, now=late)
    # Whoever's key is here has its list: one authority's trouble is not the others'.
    assert [kept.authority for kept in found.lists] == ["cloud", "tenant-zenith"]
    assert [trouble.key for trouble in found.troubles] == ["pki.root-absent", "pki.key-missing"]
    key.write_bytes(content)
    key.chmod(0o600)
    with installation.database.write() as session:
        revocation.renew_expiring(session, installation.config, now=late)
    assert _numbers(installation) == {"root": 2, "cloud": 3, "tenant-acme": 1, "tenant-zenith": 3}
