"""From the mail that crosses a site's limit to the alarm outside: ``SITES``. Prints JSON.

The smarthost takes connections and never answers, so nothing can leave by the queue: the notice has to come by the
second path, here a webhook over HTTPS. Timed from the 250 of the crossing mail until the webhook has the whole request;
the slowest of all sites.
"""

import asyncio
import json
import socket
import ssl
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from statistics import median

import aiosmtplib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab.network import wait_until
from tests.bench.mail_world import RECIPIENT, RELAY, SENDER, SINK, SINK_PORT, Relay, allow_many_files, place

HOURLY = 10
WEBHOOK = ip_address("127.0.44.1")
WEBHOOK_PORT = 8444
#: After the start, so that the first readings of the registry are over.
SETTLE_S, GIVE_UP_S = 2.0, 20.0


def certificate(directory: Path) -> tuple[Path, Path]:
    """Certificate (its own authority) and key of the webhook."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "webhook")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(WEBHOOK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "webhook.pem", directory / "webhook.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files[1].write_bytes(private)
    return files


class Webhook:
    """Takes posts; remembers when each came and what it said."""

    def __init__(self, chain: Path, key: Path) -> None:
        self.posts: list[tuple[float, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name that http.server wants
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                outer.posts.append((time.perf_counter(), body.decode()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((str(WEBHOOK), WEBHOOK_PORT), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def when(self, site: str) -> float | None:
        """When the first alarm that names this site came."""
        return next((at for at, body in list(self.posts) if f'"{site}"' in body or site in body), None)


def silent_smarthost() -> socket.socket:
    """Takes connections and says nothing; lives until it is closed."""
    listener = socket.create_server((str(SINK), SINK_PORT), backlog=128)
    kept: list[socket.socket] = []

    def take() -> None:
        try:
            while True:
                kept.append(listener.accept()[0])
        except OSError:
            return

    threading.Thread(target=take, daemon=True).start()
    return listener


async def cross(number: int) -> float:
    """Send one mail more than the site may; when the last one got its 250."""
    client = aiosmtplib.SMTP(
        hostname=str(RELAY), port=25, source_address=(f"127.2.{number}.20", 0), start_tls=False, local_hostname="plc"
    )
    async with client:
        for mail in range(HOURLY + 1):
            text = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: Fault {mail}\r\n\r\nPump 3\r\n"
            await client.sendmail(SENDER, [RECIPIENT], text.encode())
        return time.perf_counter()


def main() -> int:
    """Measure; print the figures."""
    allow_many_files()
    directory = place("relay")
    outside = place("webhook")
    outside.mkdir()
    chain, key = certificate(outside)
    (outside / "url").touch(mode=0o600)
    (outside / "url").write_text(f"https://{WEBHOOK}:{WEBHOOK_PORT}/alarm\n")
    webhook, smarthost = Webhook(chain, key), silent_smarthost()
    more = (
        f'[alerts]\nstaff = ["staff@kyoten.example"]\nsender = "kyoten@kyoten.example"\n\n'
        f'[[alerts.webhooks]]\nurl = "{outside}/url"\nca = "{chain}"\n'
    )
    relay = Relay(directory, {"hourly_limit_per_site": HOURLY}, more)
    relay.write()
    relay.start()
    time.sleep(SETTLE_S)
    delays = []
    for number in range(int(sys.argv[1])):
        # Not in step with the watch, whatever its rhythm.
        time.sleep(0.37)
        crossed = asyncio.run(cross(number))
        site = f"alarm-{number}"
        wait_until(f"the alarm about {site}", lambda: webhook.when(site) is not None, timeout_s=GIVE_UP_S)  # noqa: B023
        delays.append((webhook.when(site) or 0.0) - crossed)
    relay.stop()
    smarthost.close()
    figures = {"alarm_delay_s": max(delays), "alarm_delay_s_p50": median(delays), "alarms_timed": len(delays)}
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
