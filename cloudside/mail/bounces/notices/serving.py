"""The door for notices on its socket, with the relay's certificate. Composition of this folder."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

from cloudside.config import Notices
from cloudside.errors import ConfigurationError
from cloudside.fleet import web
from cloudside.mail.bounces.notices import envelope
from cloudside.mail.bounces.notices.certificates import Certificates
from cloudside.mail.bounces.notices.endpoint import NoticeDoor, application
from cloudside.mail.bounces.recording import Recorder
from cloudside.pki.published import EndpointFiles


async def serve(
    notices: Notices,
    recorder: Recorder,
    keys: Sequence[bytes],
    domain: str,
    stop: asyncio.Event,
    *,
    certificate: tuple[Path, Path],
) -> None:
    """Take notices until ``stop``. ``keys`` and ``domain`` are those of our return addresses; ``certificate`` names the
    PEM files with chain and key. Raises ConfigurationError: a file cannot be used.
    """
    chain, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(chain, key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError("mail.certificate-unusable", path=str(chain), reason=str(error)) from error
    certificates = Certificates(notices.hosts or envelope.hosts_of(notices.topics), notices.ca)
    try:
        door = NoticeDoor(notices.topics, certificates, recorder, keys, domain)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(web.keep_fresh(context, EndpointFiles(chain=chain, key=key, root=chain), stop))
            tasks.create_task(web.serve(application(door), context, (notices.listen,), stop))
    finally:
        await certificates.close()
