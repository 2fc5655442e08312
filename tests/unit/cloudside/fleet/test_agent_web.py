"""`kyoten web`'s sockets: an address that is not free yet, and the composition root with a real configuration."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from fleet_cloud import Cloud, Endpoint, Enrolled, heartbeat_document, until_listening

from cloudside.errors import ConfigurationError
from cloudside.fleet import web


async def test_an_address_that_appears_later_is_taken_then(
    cloud: Cloud, tokyo: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "BIND_RETRY_S", 0.05)
    port = cloud.config.web.listen[0].port
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", port)):
        serving = asyncio.create_task(web.run(cloud.config, stop))
        await asyncio.sleep(0.2)
        assert not serving.done()
    await until_listening(port)
    root = cloud.config.state_directory / "pki" / "root.crt"
    answer = await Endpoint(port, root).post("/agent/v1/heartbeat", heartbeat_document(), router=tokyo)
    assert (answer.status, answer.document["heartbeat_s"]) == (200, cloud.config.web.heartbeat_wired_s)
    stop.set()
    await asyncio.wait_for(serving, 10)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_router_that_holds_connections_leaves_the_others_theirs(
    cloud: Cloud, tokyo: Enrolled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "CONNECTIONS_MAX", 20)
    kobe = cloud.enrol("kobe-1", tmp_path)
    port = cloud.config.web.listen[0].port
    root = cloud.config.state_directory / "pki" / "root.crt"
    stop = asyncio.Event()
    serving = asyncio.create_task(web.run(cloud.config, stop))
    await until_listening(port)
    context = ssl.create_default_context(cafile=str(root))
    context.load_cert_chain(tokyo.directory / "chain.crt", tokyo.directory / "site.key")
    held = [
        await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="agent.kyoten") for _ in range(30)
    ]
    answer = await Endpoint(port, root).post("/agent/v1/heartbeat", heartbeat_document("kobe-1"), router=kobe)
    assert answer.status == 200
    for _, writer in held:
        writer.transport.abort()
    stop.set()
    await asyncio.wait_for(serving, 10)


async def test_without_certificates_it_does_not_start(cloud: Cloud) -> None:
    (cloud.config.state_directory / "pki" / "endpoint.crt").unlink()
    with pytest.raises(ConfigurationError) as refused:
        await web.run(cloud.config, asyncio.Event())
    assert refused.value.key == "pki.not-initialised"


async def test_without_a_registry_it_does_not_start(cloud: Cloud) -> None:
    (cloud.config.state_directory / "registry.sqlite").unlink()
    with pytest.raises(ConfigurationError) as refused:
        await web.run(cloud.config, asyncio.Event())
    assert refused.value.key == "registry.missing"
