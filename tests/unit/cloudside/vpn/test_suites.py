import pytest
from pydantic import ValidationError

from cloudside.config import OldRouters, Vpn
from cloudside.vpn.suites import mistakes


def test_defaults_are_fine() -> None:
    vpn, old = Vpn(), OldRouters()
    assert mistakes(vpn.ike_proposals, "ike", old=False) == ()
    assert mistakes(vpn.esp_proposals, "esp", old=False) == ()
    assert mistakes(old.ike_proposals, "ike", old=True) == ()
    assert mistakes(old.esp_proposals, "esp", old=True) == ()
    assert vpn.old_routers is None


@pytest.mark.parametrize(
    ("proposal", "said"),
    [
        ("aes256gmc16-prfsha256-ecp256", "'aes256gmc16' is no algorithm"),
        ("aes256-sha1-modp2048", "sha1 is too weak"),
        ("3des-sha256-modp2048", "3des is too weak"),
        ("aes256-sha256-modp1024", "modp1024 is too weak"),
        ("des-md5-modp768", "des is too weak for any"),
        ("aes256gcm16-ecp256", "names no PRF"),
        ("aes256gcm16-prfsha256", "names no Diffie-Hellman group"),
        ("aes256-ecp256", "names no integrity"),
        ("aes256gcm16-sha256-prfsha256-ecp256", "takes no integrity"),
        ("aes256-aes256gcm16-sha256-ecp256", "mixes"),
        ("prfsha256-ecp256", "names no encryption"),
        ("", "'' is no algorithm"),
        ("default", "'default' is no algorithm"),
    ],
)
def test_what_is_wrong_with_a_proposal_is_said(proposal: str, said: str) -> None:
    assert said in "; ".join(mistakes([proposal], "ike", old=False))


def test_weak_ones_are_for_old_routers_only_and_the_weakest_for_nobody() -> None:
    assert mistakes(["3des-sha1-modp1024"], "ike", old=True) == ()
    assert mistakes(["aes128-md5-modp2048", "null-sha256"], "ike", old=True)


def test_esp_needs_no_group_and_takes_no_prf() -> None:
    assert mistakes(["aes256gcm16", "aes128-sha256-ecp256"], "esp", old=False) == ()
    assert mistakes(["aes256gcm16-prfsha256"], "esp", old=False)


def test_configuration_names_every_mistake() -> None:
    with pytest.raises(ValidationError) as caught:
        Vpn.model_validate({"ike_proposals": ["des-md5-modp768", "x"], "esp_proposals": []})
    said = str(caught.value)
    assert "des is too weak" in said
    assert "'x' is no algorithm" in said
    assert "one at least" in said
    with pytest.raises(ValidationError):
        Vpn.model_validate({"hung_report_s": 30, "hung_restart_s": 10})
    with pytest.raises(ValidationError):
        OldRouters.model_validate({"ike_version": 2})
