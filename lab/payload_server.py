"""The agents' endpoint with nothing but firmware: ``python -m lab.payload_server ROOT PAPERS PORT``.

The product's own paths and sockets, without a registry: whoever shows a certificate of ``PAPERS/authority.pem`` and any
device id is a site.
"""

import asyncio
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, Request, Response

from cloudside.config import Listen
from cloudside.errors import KyotenError, RefusedError
from cloudside.fleet import identity, payloads, tls, web
from cloudside.fleet.documents import problem_response


def application(root: Path) -> FastAPI:
    """Firmware below ``root`` for whoever has a certificate."""
    app = FastAPI(openapi_url=None)

    async def speaker(request: Request) -> identity.Speaker:
        shown = tls.peer_certificate(request)
        if shown is None:
            raise RefusedError("fleet.certificate-refused")
        identity.device_id_of(request.headers)
        certificate = x509.load_der_x509_certificate(shown)
        name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return identity.Speaker(str(name), certificate)

    payloads.add(app, payloads.Directory(root), speaker)

    @app.exception_handler(KyotenError)
    async def keyed(request: Request, error: KyotenError) -> Response:
        return problem_response(request.url.path, error.http_status, error.key, dict(error.params))

    return app


async def main() -> None:
    """Serve on every address until SIGTERM."""
    root, papers, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    context = tls.server_context(papers / "cloud.pem", papers / "cloud.pem", papers / "authority.pem")
    everywhere = Listen(address=ip_address("0.0.0.0"), port=port)
    await web.serve(application(root), context, [everywhere], stop)


if __name__ == "__main__":
    asyncio.run(main())
