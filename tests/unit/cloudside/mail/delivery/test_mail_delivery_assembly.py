"""The sending half as the configuration describes it."""

from pathlib import Path

import pytest

from cloudside.config import Config, Dkim, Relay, Ses
from cloudside.errors import ConfigurationError
from cloudside.mail.bounces import dsn
from cloudside.mail.delivery import assembly
from cloudside.mail.intake.directory import Directory
from cloudside.registry.database import Database

VOICE = dsn.Voice("relay.test", "kyoten@kyoten.test", "en")


@pytest.fixture
def made(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'registry.sqlite'}")

    def make(**relay):
        config = Config(state_directory=tmp_path, relay=Relay(**relay))
        return assembly.delivery(config, object(), Directory(database), keys=(b"k" * 32,), voice=VOICE)

    yield make
    database.close()


async def test_what_is_missing_is_named(made, tmp_path):
    for relay, key in (
        ({}, "mail.no-smarthost"),
        ({"smarthost": "ses.test"}, "mail.no-credentials"),
        (
            {
                "smarthost": "ses.test",
                "smarthost_tls": False,
                "dkim": Dkim(domain="x.test", selector="s", key=tmp_path / "no"),
            },
            "delivery.dkim-unreadable",
        ),
    ):
        with pytest.raises(ConfigurationError) as error:
            made(**relay)
        assert error.value.key == key


async def test_the_settings_arrive(made):
    delivery = made(smarthost="127.0.0.1", smarthost_tls=False, smarthost_connections=3, smarthost_rate=7.5)
    assert delivery._connections == 3 and delivery._pacer.limit == 7.5
    assert delivery.quota is None and delivery.trouble is None and delivery.quota_error == ""
    # The registry was never read: nothing is suppressed, and nothing fails.
    assert delivery._suppressed("acme", "a@b.test") is None


async def test_the_account_is_asked_in_its_region(made):
    ses = Ses(region="eu-central-1", credentials=Path("/nowhere"))
    delivery = made(smarthost="ses.test", smarthost_tls=False, ses=ses)
    assert delivery._supply._account.endpoint == "https://email.eu-central-1.amazonaws.com"
    delivery = made(
        smarthost="ses.test", smarthost_tls=False, ses=ses.model_copy(update={"endpoint": "https://x.test"})
    )
    assert delivery._supply._account.endpoint == "https://x.test"
