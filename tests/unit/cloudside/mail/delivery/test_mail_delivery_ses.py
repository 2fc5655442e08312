"""The client of SES's API against the lab's stand-in, which checks signatures with code of its own."""

import json
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.delivery.quota import Supply
from cloudside.mail.delivery.ses import SesAccount
from cloudside.mail.delivery.supply import SupplyWatch
from cloudside.messages import error_text
from lab.ses_api import Account, Mood, SesApi

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.fixture
async def api(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    made = SesApi(KEY_ID, SECRET, account=Account(most=50_000, sent=1234, rate=14))
    async with made.running(context):
        yield made


@pytest.fixture
def account(api, tmp_path, certificate):
    path = tmp_path / "ses.credentials"
    path.write_text(f"{KEY_ID}\n{SECRET}\n")
    return SesAccount(f"https://127.0.0.1:{api.port}", api.region, path, certificate.certificate, timeout_s=1.0)


def now():
    return datetime.now(UTC)


async def test_the_account_is_read(api, account):
    at = now()
    reading = await account.read(at)
    assert (reading.max_24h, reading.sent_24h, reading.rate, reading.enabled) == (50_000, 1234, 14, True)
    assert reading.at == at.timestamp()
    api.account = replace(api.account, enabled=False)
    assert not (await account.read(now())).enabled
    assert (api.answered, api.refused) == (2, 0)


@pytest.mark.parametrize(
    ("user", "secret", "region", "ago"),
    [
        ("AKIDOTHER", SECRET, "ap-northeast-1", timedelta()),
        (KEY_ID, SECRET[::-1], "ap-northeast-1", timedelta()),
        (KEY_ID, SECRET, "eu-central-1", timedelta()),
        (KEY_ID, SECRET, "ap-northeast-1", timedelta(minutes=6)),
        (KEY_ID, SECRET, "ap-northeast-1", -timedelta(minutes=6)),
    ],
    ids=["key", "secret", "region", "slow-clock", "fast-clock"],
)
async def test_a_wrong_key_region_or_clock_is_ours_to_mend(api, account, user, secret, region, ago):
    account.credentials.write_text(f"{user}\n{secret}\n")
    with pytest.raises(ConfigurationError) as refusal:
        await replace(account, region=region).read(now() - ago)
    assert refusal.value.key == "delivery.ses-refused" and (api.answered, api.refused) == (0, 1)
    text = error_text(refusal.value, language="en")
    assert str(account.credentials) in text and "403" in text
    assert secret not in text and secret not in repr(account)


@pytest.mark.parametrize(
    ("mood", "key", "words"),
    [
        (Mood.THROTTLED, "delivery.ses-failed", "429 TooManyRequestsException"),
        (Mood.FAILED, "delivery.ses-failed", "503"),
        (Mood.SILENT, "delivery.ses-silent", "Timeout"),
        (Mood.GARBAGE, "delivery.ses-answer", "no SendQuota"),
        (Mood.STRANGE, "delivery.ses-answer", "no SendQuota"),
        (Mood.IMPOSSIBLE, "delivery.ses-answer", "impossible"),
        (Mood.ENDLESS, "delivery.ses-answer", "too long"),
    ],
)
async def test_an_answer_that_is_none_passes(api, account, mood, key, words):
    api.account = Account(mood=mood)
    began = time.monotonic()
    with pytest.raises(UnavailableError) as fault:
        await account.read(now())
    assert fault.value.key == key and words in error_text(fault.value, language="en")
    assert time.monotonic() - began < 4
    api.account = Account()
    assert (await account.read(now())).max_24h == 50_000


async def test_another_certificate_is_not_believed(api, account):
    with pytest.raises(UnavailableError) as fault:
        await replace(account, authority=None).read(now())
    assert fault.value.key == "delivery.ses-silent" and (api.answered, api.refused) == (0, 0)


async def test_a_broken_authority_file_and_credentials_are_named(account, tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigurationError) as fault:
            await replace(account, authority=path).read(now())
        assert fault.value.key == "delivery.ses-authority" and str(path) in str(fault.value)
    account.credentials.unlink()
    with pytest.raises(ConfigurationError):
        await account.read(now())


async def test_nobody_there(account):
    with pytest.raises(UnavailableError) as fault:
        await replace(account, endpoint="https://127.0.0.1:1").read(now())
    assert fault.value.key == "delivery.ses-silent"


async def test_the_stand_in_can_be_steered_by_a_file(api, account, tmp_path):
    api.state = tmp_path / "state.json"
    api.state.write_text(json.dumps({"most": 100, "sent": 99, "rate": 1}))
    assert (await account.read(now())).sent_24h == 99
    api.state.write_text(json.dumps({"mood": "throttled"}))
    with pytest.raises(UnavailableError):
        await account.read(now())


async def test_the_watch_counts_what_was_sent_between_two_answers(api, account):
    api.account = Account(most=1000, sent=890)
    watch = SupplyWatch(account, poll_s=300, reserve_pct=10)
    await watch.ask(now())
    assert watch.quota.state is Supply.NEAR and not watch.is_urgent_only
    for _ in range(9):
        watch.sent(time.time())
    assert not watch.is_urgent_only
    watch.sent(time.time())
    assert watch.is_urgent_only and watch.quota.left == 100
    api.account = Account(most=1000, sent=800)
    await watch.ask(now())
    assert not watch.is_urgent_only and watch.quota.left == 200
    api.account = Account(mood=Mood.FAILED)
    await watch.ask(now())
    assert watch.error and watch.quota.left == 200 and "503" in watch.error
