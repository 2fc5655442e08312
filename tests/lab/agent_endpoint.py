"""A small cloud for the agent's tests: TLS with client certificates, heartbeats kept, answers from a file.

    python agent_endpoint.py DIRECTORY PORT

DIRECTORY has endpoint.crt, endpoint.key, tenants.crt, device_id and, at any time, answer.json. It writes
heartbeats.jsonl (each with the address it came in at and the peer's name) and logs/<id>.gz.
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PLACE = Path(sys.argv[1])


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
        else:
            (PLACE / "logs" / f"{self.path.rsplit('/', 1)[1]}.gz").write_bytes(body)
            self.reply(204, b"")

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
