"""Any octets get answers or a close; nothing becomes a fault of ours, and the next client is served."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

VERBS = [b"EHLO", b"HELO", b"MAIL FROM:", b"RCPT TO:", b"DATA", b"RSET", b"NOOP", b"VRFY", b"EXPN", b"HELP", b"AUTH",
         b"STARTTLS", b"BDAT", b"MAIL", b"RCPT", b"ETRN", b"XCLIENT", b"."]  # fmt: skip
ARGUMENTS = [b" plc", b"<a@b.test>", b"<>", b" <a@b.test> SIZE=1", b" PLAIN AHBsYwB4", b" LOGIN", b"", b" \xff\xfe",
             b" 10 LAST", b"<" * 50, b" A=B=C", b" =", b" \x00", b" " * 900, b"x" * 1100]  # fmt: skip
LINES = st.builds(
    lambda verb, argument, end: verb + argument + end,
    st.sampled_from(VERBS),
    st.one_of(st.sampled_from(ARGUMENTS), st.binary(max_size=30)),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n", b""]),
)
GOOD = b"EHLO plc\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
TALK = st.lists(st.one_of(LINES, st.binary(max_size=200), st.just(GOOD), st.just(b"\r\n.\r\n")), max_size=12)


@pytest.mark.parametrize("door", ["site", "submission"])
async def test_any_octets(desk, door):
    faults = []
    async with desk(connections_per_site=1000) as open_desk:
        made = getattr(open_desk.intake, door)
        made.metrics.refused = lambda reason: None
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))

        async def told(talk, pieces):
            client = await open_desk.connect(door)
            for number, said in enumerate(talk):
                client.send(said)
                if pieces and number % 2:
                    await asyncio.sleep(0)
            with suppress(OSError):  # the relay may have hung up already
                client.writer.write_eof()
            answered = await client.rest()
            client.writer.close()
            for line in answered.splitlines():
                assert line[:3].isdigit() and line[3:4] in " -", line
                assert not line.startswith("451 4.3.0"), talk

        # One loop for all examples: hypothesis calls from a thread of its own.
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(TALK, st.booleans())
        def run(talk, pieces):
            asyncio.run_coroutine_threadsafe(told(talk, pieces), loop).result(20)

        await asyncio.to_thread(run)
        client = await (await open_desk.connect(door)).greeted()
        assert (await client.say("QUIT")).startswith("221")
    assert not faults
