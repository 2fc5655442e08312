"""A running relay: a flood reaches a webhook within seconds and not by the queue that floods."""

import asyncio
import json
import time

from cloudside.alerts.paths import signature
from cloudside.config import Webhook
from lab.webhook import Webhook as Receiver


async def test_a_flood_is_told_by_webhook_within_five_seconds(world, mail, certificate, tmp_path):
    receiver = Receiver()
    async with receiver.listening("127.0.0.1", 0, certificate.certificate, certificate.key) as port:
        url, key = tmp_path / "webhook", tmp_path / "webhook-key"
        url.write_text(f"https://127.0.0.1:{port}/secret")
        key.write_text("shared")
        webhook = Webhook(url=url, key=key, ca=certificate.certificate)
        world = world.changed(hourly_limit_per_site=5)
        alerts = world.config.alerts.model_copy(update={"webhooks": (webhook,)})
        world.config = world.config.model_copy(update={"alerts": alerts})
        async with world.relay(), world.client() as client:
            for _ in range(6):
                await client.sendmail("plc@site.test", ["ops@customer.test"], mail())
            crossed = time.monotonic()
            async with asyncio.timeout(10):
                while not receiver.posts:
                    await asyncio.sleep(0.02)
            assert time.monotonic() - crossed < 5
            await world.smarthost.wait(6)
    (post,) = receiver.posts
    assert post.headers["x-kyoten-signature"] == signature(post.body, b"shared")
    said = json.loads(post.body)
    assert (said["kind"], said["subject"], said["params"]["count"]) == ("mail-flood", "tokyo-1", 6)
    assert all(one.recipient == "ops@customer.test" for one in world.smarthost.taken)
