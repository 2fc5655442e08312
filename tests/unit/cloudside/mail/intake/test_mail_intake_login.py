"""Who logs in, from where, how often wrongly; what TLS they may use; what is said before TLS does not count."""

import base64
import hmac
import ssl
import subprocess
import time
import warnings
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import uvloop
from argon2 import PasswordHasher

from cloudside.mail.intake import cram
from cloudside.mail.watch.sightings import Sight
from cloudside.registry.tables import MailProfile, SmtpCredential

PASSWORD = "correct horse battery"
MAIL = b"From: plc@site.test\r\nSubject: Fault 7\r\n\r\nPump 3 stopped.\r\n.\r\n"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("asyncio.sleep", _no_longer_than(__import__("asyncio").sleep))


def _no_longer_than(really):
    async def sleep(seconds, *args):
        await really(min(seconds, 0.02), *args)

    return sleep


def plain(user, password):
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def b64(text):
    return base64.b64encode(text.encode()).decode()


def change(open_desk, user="plc", **columns):
    """Change the credential in the registry, and have the relay look."""
    with open_desk.database.write() as session:
        row = session.get(SmtpCredential, user)
        for name, value in columns.items():
            setattr(row, name, value)
    assert open_desk.directory.refresh()


async def test_plain_and_login_in_both_forms(desk):
    async with desk() as open_desk:
        client = await open_desk.submit()
        assert (await client.say(plain("plc", PASSWORD))).startswith("235")
        client = await open_desk.submit()
        assert await client.say("auth plain") == "334 \r\n"
        assert (await client.say(plain("plc", PASSWORD).split()[2])).startswith("235")
        client = await open_desk.submit()
        assert await client.say("AUTH LOGIN") == f"334 {b64(chr(85) + 'ser Name' + chr(0))}\r\n"
        assert await client.say(b64("plc")) == f"334 {b64('Password' + chr(0))}\r\n"
        assert (await client.say(b64(PASSWORD))).startswith("235")
        client = await open_desk.submit()
        await client.say(f"AUTH LOGIN {b64('plc')}")
        assert (await client.say(b64(PASSWORD))).startswith("235")
        assert (await client.say(plain("plc", PASSWORD))).startswith("503")


async def test_a_device_that_logged_in_sends_as_its_site(desk):
    async with desk() as open_desk:
        client = await open_desk.submit()
        await client.say(plain("plc", PASSWORD))
        client.send(b"MAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA\r\n" + MAIL)
        replies = [await client.reply() for _ in range(4)]
        assert replies[3].startswith("250")
        (new,) = open_desk.shelf.taken
        assert (new.origin, new.tenant, new.device) == ("tokyo-1", "acme", "plc")
        assert b"with ESMTPSA id" in new.head


async def test_nothing_goes_without_tls_and_a_login(desk):
    async with desk() as open_desk:
        client = await (await open_desk.connect("submission")).greeted()
        assert (await client.say(plain("plc", PASSWORD))).startswith("538")
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("530")
        assert (await client.say("DATA")).startswith("530")
        client = await open_desk.submit()
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("530")
        offered = await client.say("EHLO plc")
        assert "250-AUTH LOGIN PLAIN\r\n" in offered and "STARTTLS" not in offered and "CRAM" not in offered
        assert (await client.say("STARTTLS")).startswith("503")


NO_LOGINS = [
    (["AUTH"], "501"),
    (["AUTH PLAIN a b"], "501"),
    (["AUTH XOAUTH2 abc"], "504"),
    (["AUTH CRAM-MD5"], "504"),
    (["AUTH PLAIN !!!"], "501"),
    (["AUTH PLAIN " + b64("no parts")], "501"),
    (["AUTH PLAIN " + b64("a\0b\0c\0d")], "501"),
    (["AUTH PLAIN", "*"], "501"),
    (["AUTH LOGIN", "*"], "501"),
    (["AUTH LOGIN", b64("plc"), "="], "535"),
    (["AUTH PLAIN ="], "501"),
    (["AUTH LOGIN", b64("\xff\xfe"), b64("x" * 2000)], "535"),
    (["AUTH PLAIN " + "A" * 5000], "500"),
]


async def test_what_is_no_login(desk):
    async with desk() as open_desk:
        client = await open_desk.submit()
        answered = []
        for said, _ in NO_LOGINS:
            replies = [await client.say(line) for line in said]
            answered.append((said, replies[-1][:3]))
            assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("530")
    assert answered == NO_LOGINS


async def test_wrong_passwords_are_seen_and_soon_not_checked_any_more(desk):
    async with desk() as open_desk:
        client = await open_desk.submit()
        replies = [(await client.say(plain(user, "wrong")))[:3] for user in ("plc", "nobody", "plc", "x", "plc")]
        assert replies == ["535"] * 5
        assert (await client.say(plain("plc", PASSWORD))).startswith("454 4.7.0")
        assert open_desk.intake.throttle.failures_since(time.monotonic() - 60) == [
            ("127.0.1.20", "plc", 3), ("127.0.1.20", "nobody", 1), ("127.0.1.20", "x", 1),
        ]  # fmt: skip
        seen = {(one.subject, one.count) for one in open_desk.sightings.recent(Sight.LOGIN_FAILED, time.time())}
        assert seen == {("plc", 3), ("nobody", 1), ("x", 1)}


async def test_guesses_from_many_addresses_do_not_lock_out_the_device(desk):
    async with desk() as open_desk:
        open_desk.intake.throttle.user_failures_max = 4
        clients = []
        for number in range(30, 33):
            client = await (await open_desk.connect("submission", source=f"127.0.1.{number}")).greeted()
            await client.start_tls(open_desk.trust())
            await client.say("EHLO plc")
            clients.append(client)
        device = await open_desk.submit()
        assert (await device.say(plain("plc", PASSWORD))).startswith("235")
        replies = [(await client.say(plain("plc", "wrong")))[:3] for client in clients for _ in range(2)]
        assert replies == ["535"] * 4 + ["454"] * 2
        assert (await clients[2].say(plain("plc", PASSWORD))).startswith("454")
        again = await open_desk.submit()
        assert (await again.say(plain("plc", PASSWORD))).startswith("235")


async def test_the_password_before_a_rotation_is_good_for_a_while(desk, monkeypatch):
    async with desk() as open_desk:
        old = open_desk.directory.snapshot.credentials["plc"].password_hash
        client = await open_desk.submit()
        assert (await client.say(plain("plc", PASSWORD))).startswith("235")  # and is remembered
        hasher = PasswordHasher(time_cost=1, memory_cost=64)
        change(open_desk, password_hash=hasher.hash("new password 1"), previous_hash=old,
               previous_until=datetime.now(UTC) + timedelta(hours=1))  # fmt: skip
        for password in (PASSWORD, "new password 1"):
            client = await open_desk.submit()
            assert (await client.say(plain("plc", password))).startswith("235")
        change(open_desk, previous_until=datetime.now(UTC) - timedelta(seconds=1))
        client = await open_desk.submit()
        assert (await client.say(plain("plc", PASSWORD))).startswith("535")
        change(open_desk, revoked_at=datetime.now(UTC))
        client = await open_desk.submit()
        assert (await client.say(plain("plc", "new password 1"))).startswith("535")


async def test_revoked_while_connected(desk):
    async with desk() as open_desk:
        client = await open_desk.submit()
        await client.say(plain("plc", PASSWORD))
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("250")
        await client.say("RCPT TO:<ops@customer.test>")
        await client.say("DATA")
        change(open_desk, revoked_at=datetime.now(UTC))
        assert (await client.say(MAIL)).startswith("550 5.7.1")
        assert not open_desk.shelf.taken


async def test_a_login_is_good_only_where_it_may_be_used(desk):
    async with desk() as open_desk:
        change(open_desk, sources=["127.0.1.0/28"])
        client = await open_desk.submit()
        assert (await client.say(plain("plc", "wrong"))).startswith("535 5.7.8 User name or password")
        assert (await client.say(plain("plc", PASSWORD))).startswith("535 5.7.8 This user name may not be used from")
        (seen,) = open_desk.sightings.recent(Sight.FOREIGN_SOURCE, time.time())
        assert (seen.subject, seen.source) == ("plc", "127.0.1.20")
        change(open_desk, sources=["127.0.1.0/24"])
        assert (await client.say(plain("plc", PASSWORD))).startswith("235")


FROM = "From: {}\r\nSubject: x\r\n\r\nx\r\n.\r\n"


async def test_senders_and_recipients_that_are_allowed(desk):
    async with desk() as open_desk:
        change(open_desk, senders=["Plc@Site.test", "@alarm.test"], recipients=["@customer.test", "a@b.test"])
        client = await open_desk.submit()
        await client.say(plain("plc", PASSWORD))
        for sender, code in (("plc@site.test", "250"), ("PLC@SITE.TEST", "250"), ("any@alarm.test", "250"), ("", "250"),
                             ("other@site.test", "550"), ("plc@evil.alarm.test", "550")):  # fmt: skip
            assert (await client.say(f"MAIL FROM:<{sender}>"))[:3] == code
            await client.say("RSET")
        await client.say("MAIL FROM:<plc@site.test>")
        for recipient, code in (("ops@customer.test", "250"), ("A@b.test", "250"), ("b@b.test", "550"),
                                ("user%e.test@customer.test", "550"), ("e.test!u@customer.test", "550")):  # fmt: skip
            assert (await client.say(f"RCPT TO:<{recipient}>"))[:3] == code


FROMS = [
    ("plc@site.test", "250"),
    ("PLC <plc@site.test>", "250"),
    ('"Plant, east" <any@alarm.test>', "250"),
    ("=?utf-8?b?5pWF6Zqc?= <plc@site.test>", "250"),
    ("ceo@customer.test", "550"),
    ("plc@site.test <ceo@customer.test>", "550"),
    ("plc@site.test, ceo@customer.test", "550"),
    ("<plc@site.test> <ceo@customer.test>", "550"),
    ('"<ceo@customer.test>" <plc@site.test>', "550"),
    ("CEO (ceo@customer.test) <plc@site.test>", "550"),
    ("everybody: plc@site.test;", "550"),
    ("", "550"),
    ("plc@site.test\r\nFrom: ceo@customer.test", "550"),
    ("plc@site.test\r\n (ceo)", "550"),
    ("plc@site.test\r\nfrom : ceo@customer.test", "550"),
    ("CEO\r\n <plc@site.test>", "250"),
]


async def test_the_from_field_is_an_allowed_one_too(desk):
    async with desk() as open_desk:
        change(open_desk, senders=["plc@site.test", "@alarm.test"])
        client = await open_desk.submit()
        await client.say(plain("plc", PASSWORD))
        answered = []
        for written, _ in FROMS:
            client.send("MAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA")
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
            answered.append((written, (await client.say(FROM.format(written).encode()))[:3]))
    assert answered == FROMS


async def test_mail_by_address_is_bound_by_the_sites_profile(desk):
    async with desk() as open_desk:
        with open_desk.database.write() as session:
            session.add(MailProfile(site_id="tokyo-1", senders=["plc@site.test"], recipients=["@customer.test"]))
        open_desk.directory.refresh()
        client = await (await open_desk.connect()).greeted()
        assert (await client.say("MAIL FROM:<x@site.test>")).startswith("550")
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("250")
        assert (await client.say("RCPT TO:<a@elsewhere.test>")).startswith("550")
        assert (await client.say("RCPT TO:<a@customer.test>")).startswith("250")
        await client.say("DATA")
        assert (await client.say(FROM.format("ceo@customer.test").encode())).startswith("550")


async def test_cram_md5_only_where_it_is_offered_and_made_for(desk):
    async with desk(cram_md5=True) as open_desk:
        seal = cram.seal(open_desk.config.state_directory / "mail" / cram.FILE_NAME)

        async def answer(user, password):
            client = await open_desk.submit()
            assert "250-AUTH LOGIN PLAIN CRAM-MD5\r\n" in await client.say("EHLO plc")
            challenge = base64.b64decode((await client.say("AUTH CRAM-MD5")).split()[1])
            assert challenge.startswith(b"<") and challenge.endswith(b"@relay.test>")
            digest = hmac.new(password.encode(), challenge, "md5").hexdigest()
            return (await client.say(b64(f"{user} {digest}")))[:3]

        assert await answer("plc", PASSWORD) == "535"
        change(open_desk, cram_secret=seal.encrypt(PASSWORD))
        assert await answer("plc", PASSWORD) == "235"
        assert await answer("plc", "wrong") == "535"
        assert await answer("nobody", PASSWORD) == "535"
        change(open_desk, cram_secret="damaged")
        assert await answer("plc", PASSWORD) == "535"


def test_the_seal_keeps_its_key_and_its_secret(tmp_path):
    path = tmp_path / "mail" / "cram.key"
    secret = cram.seal(path).encrypt(PASSWORD)
    assert PASSWORD not in secret and path.stat().st_mode & 0o777 == 0o600
    assert cram.seal(path).decrypt(secret) == PASSWORD.encode()
    assert cram.digest(b"tanstaaftanstaaf", b"<1896.697170952@postoffice.reston.mci.net>") == (
        "b913a602c7eda7a495b4e6e7334d3890"  # RFC 2195 section 2
    )


async def test_what_came_with_starttls_is_thrown_away(desk):
    async with desk() as open_desk:
        client = await (await open_desk.connect("submission")).greeted()
        client.send(b"STARTTLS\r\nMAIL FROM:<evil@site.test>\r\nNOOP\r\nQUIT\r\n")
        assert (await client.reply()).startswith("220")
        await client.writer.start_tls(open_desk.trust())
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("503")  # no EHLO under TLS either
        assert (await client.say("EHLO plc")).startswith("250-relay.test")
        assert (await client.say(plain("plc", PASSWORD))).startswith("235")
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("250")


async def test_a_login_before_tls_does_not_count_after_it(desk):
    async with desk() as open_desk:
        client = await open_desk.submit()
        await client.say(plain("plc", PASSWORD))
        await client.say("EHLO plc")
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("250")
        assert (await client.say(plain("plc", PASSWORD))).startswith("503")


async def test_tls_from_the_first_byte(desk):
    async with desk() as open_desk:
        client = await open_desk.connect("tls", tls=open_desk.trust())
        await client.greeted()
        assert (await client.say(plain("plc", PASSWORD))).startswith("235")
        assert (await client.say("QUIT")).startswith("221")
        plainly = await open_desk.connect("tls")
        plainly.send("EHLO plc")
        assert b"250" not in await plainly.reader.read()
        crowded = open_desk.intake.tls.gate
        crowded.total_max = crowded.open
        with pytest.raises(OSError):
            await open_desk.connect("tls", tls=open_desk.trust())


def old_client(open_desk, version):
    context = open_desk.trust()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("door", ["tls", "submission"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_tls_only_for_sites_that_may(desk, door, version):
    async with desk() as open_desk:

        async def said():
            context = old_client(open_desk, version)
            if door == "tls":
                return await (await open_desk.connect("tls", tls=context)).greeted()
            client = await (await open_desk.connect(door)).greeted()
            await client.start_tls(context)
            await client.say("EHLO plc")
            return client

        with pytest.raises(OSError):
            await said()
        assert not list(open_desk.sightings.recent(Sight.OLD_TLS, time.time()))
        with open_desk.database.write() as session:
            session.add(MailProfile(site_id="tokyo-1", old_tls=True))
        open_desk.directory.refresh()
        client = await said()
        assert (await client.say(plain("plc", PASSWORD))).startswith("235")
        (seen,) = open_desk.sightings.recent(Sight.OLD_TLS, time.time())
        assert seen.subject == "tokyo-1" and seen.detail == version.name.replace("_", ".")
        client = await open_desk.submit()
        assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert len(list(open_desk.sightings.recent(Sight.OLD_TLS, time.time()))) == 1


async def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(desk, monkeypatch, tmp_path):
    monkeypatch.setattr("cloudside.mail.intake.tls.LOOK_S", 0.0)
    async with desk() as open_desk:
        certificates = open_desk.intake.submission.certificates
        chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
        chain.write_bytes(open_desk.certificate.read_bytes())
        key.write_bytes(open_desk.certificate.with_name("key.pem").read_bytes())
        certificates._certificate, certificates._key = chain, key

        async def shown():
            client = await (await open_desk.connect("submission")).greeted()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            await client.start_tls(context)
            return client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

        before = await shown()
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=renewed"
            f" -keyout {tmp_path}/key.new -out {tmp_path}/chain.new"
        )
        subprocess.run(command.split(), check=True, capture_output=True)
        (tmp_path / "chain.new").rename(chain)
        assert await shown() == before  # the key does not fit yet
        (tmp_path / "key.new").rename(key)
        assert await shown() != before
        chain.unlink()
        assert await shown() != before


#: What TLS does to a connection is the loop's work, and the relay's loop is not the one that tests run on.
ON_UVLOOP = [
    test_plain_and_login_in_both_forms,
    test_a_device_that_logged_in_sends_as_its_site,
    test_what_came_with_starttls_is_thrown_away,
    test_tls_from_the_first_byte,
    partial(test_old_tls_only_for_sites_that_may, door="tls", version=ssl.TLSVersion.TLSv1),
    partial(test_old_tls_only_for_sites_that_may, door="submission", version=ssl.TLSVersion.TLSv1_1),
]


@pytest.mark.parametrize("number", range(len(ON_UVLOOP)))
def test_the_same_on_uvloop(desk, number):
    uvloop.run(ON_UVLOOP[number](desk))
