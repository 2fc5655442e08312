"""A small cloud for the agent's tests: TLS with client certificates, heartbeats kept, answers from a file.

    python agent_endpoint.py DIRECTORY PORT

DIRECTORY has endpoint.crt, endpoint.key, tenants.crt, device_id and, at any time, answer.json. It writes
heartbeats.jsonl (each with the address it came in at and the peer's name), logs/<id>.gz and requests/<n>.pem for each
request for a certificate, which is answered with requests/<n>.json when that is there within ANSWER_S.
"""

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PLACE = Path(sys.argv[1])
ANSWER_S = 5.0


class Cloud(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"KyotenDevice {(PLACE / 'device_id').read_text()}":
            self.reply(403, b"{}")
        elif self.path == "/agent/v1/heartbeat":
            subject = dict(pair for part in self.connection.getpeercert()["subject"] for pair in part)
            heard = {
                "local": self.connection.getsockname()[0],
                "peer": self.client_address[0],
                "common_name": subject["commonName"],
                "document": json.loads(body),
            }
            with (PLACE / "heartbeats.jsonl").open("a") as stream:
                stream.write(json.dumps(heard) + "\n")
            self.reply(200, (PLACE / "answer.json").read_bytes())
        elif self.path == "/agent/v1/certificate":
            self.certificate(json.loads(body)["csr"])
        else:
            (PLACE / "logs" / f"{self.path.rsplit('/', 1)[1]}.gz").write_bytes(body)
            self.reply(204, b"")

    def do_HEAD(self) -> None:
        self.reply(405, b"")

    def certificate(self, csr: str) -> None:
        place = PLACE / "requests"
        place.mkdir(exist_ok=True)
        number = len(list(place.glob("*.pem")))
        (place / f"{number}.pem").write_text(csr)
        answer = place / f"{number}.json"
        deadline = time.monotonic() + ANSWER_S
        while not answer.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.reply(*((200, answer.read_bytes()) if answer.exists() else (503, b"")))

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PLACE / "endpoint.crt", PLACE / "endpoint.key")
    context.load_verify_locations(PLACE / "tenants.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), Cloud)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()
