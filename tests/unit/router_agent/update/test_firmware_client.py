"""The client against servers that answer wrongly, too much, too little, too slowly, or not at all."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firmware.errors import SourceError
from router_agent.bundle import Endpoint
from router_agent.errors import CloudRefusedError, CloudUnreachableError
from router_agent.update.client import CloudBusyError, FirmwareClient

NAME = "a" * 64 + ".zst"


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's certificate for agent.kyoten, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent.kyoten")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("agent.kyoten"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("papers") / "both.pem"
    path.write_bytes(made.public_bytes(pem) + private)
    return path


class Scripted:
    """Answers each request with the next of its answers, byte by byte as they are; then closes, or hangs."""

    def __init__(self, papers: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(papers)
        self.answers: list[bytes] = []
        self.hang = False
        self.asked: list[str] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(5)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._talk, args=(plain,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as secured:
                while True:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        piece = secured.recv(65536)
                        if not piece:
                            return
                        head += piece
                    self.asked.append(head.decode())
                    answer = self.answers.pop(0) if self.answers else b""
                    secured.sendall(answer)
                    if b"keep-alive" not in answer:
                        break
                if self.hang:
                    self._over.wait(10)
        except OSError:
            pass  # a client that hangs up is what this is about


@pytest.fixture
def server(papers: Path) -> Iterator[Scripted]:
    scripted = Scripted(papers)
    yield scripted
    scripted.close()


@pytest.fixture
def client(papers: Path, server: Scripted) -> Iterator[FirmwareClient]:
    made = line(papers, server.port)
    yield made
    made.close()


def line(papers: Path, *ports: int, silence_s: float = 0.5) -> FirmwareClient:
    return FirmwareClient(
        ssl.create_default_context(cafile=str(papers)),
        name="agent.kyoten",
        device_id="0f" * 32,
        source="127.0.0.1",
        endpoints=tuple(Endpoint("127.0.0.1", port, False) for port in ports),
        silence_s=silence_s,
    )


def answer(status: str, body: bytes, *lines: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def partial(content_range: str, body: bytes, *lines: str, length: int | None = None) -> bytes:
    return answer("206 Partial Content", body, f"Content-Range: {content_range}", *lines, length=length)


def bytes_of(client: FirmwareClient, start: int, end: int, size: int = 100) -> bytes:
    return b"".join(client.ranged(NAME, start, end, size))


def test_a_range_is_asked_for_and_comes_over_one_connection(server: Scripted, client: FirmwareClient) -> None:
    server.answers = [partial("bytes 10-19/100", b"0123456789", "X: keep-alive"), partial("bytes 20-21/100", b"ab")]
    assert bytes_of(client, 10, 20) == b"0123456789"
    assert bytes_of(client, 20, 22) == b"ab"
    assert server.connections == 1
    first = server.asked[0]
    assert first.startswith(f"GET /firmware/v1/payload/{NAME} HTTP/1.1\r\n")
    for header in ("Range: bytes=10-19\r\n", f"Authorization: KyotenDevice {'0f' * 32}\r\n", "Host: agent.kyoten"):
        assert header in first


def test_a_connection_that_died_in_between_is_made_anew(server: Scripted, client: FirmwareClient) -> None:
    server.answers = [partial("bytes 0-1/100", b"ab"), partial("bytes 2-3/100", b"cd")]
    assert bytes_of(client, 0, 2) + bytes_of(client, 2, 4) == b"abcd"
    assert server.connections == 2


WRONG_ANSWERS = {
    "another start": partial("bytes 11-20/100", b"0123456789"),
    "another end": partial("bytes 10-18/100", b"012345678"),
    "another size": partial("bytes 10-19/101", b"0123456789"),
    "no size": partial("bytes 10-19/*", b"0123456789"),
    "no such header": answer("206 Partial Content", b"0123456789"),
    "nonsense": partial("bytes x-y/z", b"0123456789"),
    "a long number": partial(f"bytes 10-19/{'9' * 5000}", b"0123456789"),
    "more than asked": partial("bytes 10-19/100", b"0" * 50),
    "the whole": answer("200 OK", b"0" * 100),
    "no length": b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-19/100\r\n\r\n0123456789",
    "chunked": b"HTTP/1.1 206 P\r\nContent-Range: bytes 10-19/100\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789",
    "packed": partial("bytes 10-19/100", b"0123456789", "Content-Encoding: gzip"),
    "elsewhere": answer("302 Found", b"", "Location: https://198.51.100.1/"),
    "not allowed": answer("403 Forbidden", b"{}"),
    "not there": answer("404 Not Found", b"{}"),
    "not so long": answer("416 Range Not Satisfiable", b"", "Content-Range: bytes */5"),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_an_answer_about_something_else_is_refused_and_none_of_it_used(
    server: Scripted, client: FirmwareClient, wrong: str
) -> None:
    server.answers = [WRONG_ANSWERS[wrong]]
    with pytest.raises(CloudRefusedError):
        bytes_of(client, 10, 20)


def test_a_body_without_end_is_read_to_the_length_that_was_asked_for(server: Scripted, client: FirmwareClient) -> None:
    server.answers = [partial("bytes 10-19/100", b"0" * 1_000_000, length=10)]
    assert bytes_of(client, 10, 20) == b"0" * 10


NO_ANSWERS = {
    "nothing": b"",
    "noise": b"\0\1\2\3 noise\r\n\r\n",
    "headers without end": b"HTTP/1.1 206 P\r\n" + b"X: y\r\n" * 500,
    "a header without end": b"HTTP/1.1 206 P\r\nX: " + b"y" * 200_000,
    "trouble": answer("500 Internal Server Error", b"{}"),
    "a bad gateway": answer("502 Bad Gateway", b""),
}


@pytest.mark.parametrize("none", NO_ANSWERS)
def test_no_answer_is_the_lines_or_the_clouds_fault(server: Scripted, client: FirmwareClient, none: str) -> None:
    server.answers = [NO_ANSWERS[none]]
    with pytest.raises(CloudUnreachableError):
        bytes_of(client, 10, 20)


@pytest.mark.parametrize("hang", [False, True])
def test_what_came_before_the_line_broke_is_handed_over(server: Scripted, client: FirmwareClient, hang: bool) -> None:
    server.hang = hang
    server.answers = [partial("bytes 10-19/100", b"0123", length=10)]
    came = bytearray()
    with pytest.raises(CloudUnreachableError):
        for piece in client.ranged(NAME, 10, 20, 100):
            came += piece
    assert came == b"0123"


def test_a_busy_cloud_says_when(server: Scripted, client: FirmwareClient) -> None:
    for said, wait_s in (("30", 30.0), ("999999", 600.0), ("soon", 0.0), ("-5", 0.0)):
        server.answers = [answer("503 Service Unavailable", b"", f"Retry-After: {said}")]
        with pytest.raises(CloudBusyError) as busy:
            bytes_of(client, 10, 20)
        assert busy.value.wait_s == wait_s


def test_the_first_endpoint_that_answers_is_asked_until_it_is_passed_over(papers: Path, server: Scripted) -> None:
    other = Scripted(papers)
    good = partial("bytes 0-1/100", b"ab", "X: keep-alive")
    server.answers, other.answers = [good] * 3, [good] * 3
    client = line(papers, 1, server.port, other.port)
    assert bytes_of(client, 0, 2) == b"ab"
    assert (server.connections, other.connections) == (1, 0)
    client.pass_over()
    client.pass_over()
    assert bytes_of(client, 0, 2) == b"ab"
    assert (server.connections, other.connections) == (1, 1)
    client.close()
    other.close()
    with pytest.raises(CloudUnreachableError):
        bytes_of(line(papers), 0, 2)


def test_a_server_that_is_not_the_clouds_is_told_nothing(papers: Path, server: Scripted) -> None:
    client = FirmwareClient(
        ssl.create_default_context(), name="agent.kyoten", device_id="0f" * 32, source="127.0.0.1",
        endpoints=(Endpoint("127.0.0.1", server.port, False),), silence_s=0.5,
    )  # fmt: skip
    with pytest.raises(CloudUnreachableError, match="certificate"):
        bytes_of(client, 0, 2)
    assert server.asked == []


def test_metadata_comes_in_pieces_and_says_what_is_wrong(server: Scripted, client: FirmwareClient) -> None:
    server.answers = [
        answer("200 OK", b"{}"),
        answer("404 Not Found", b""),
        answer("500 Oh", b""),
        answer("403 No", b""),
    ]
    assert b"".join(client.open("metadata", "3.root.json")) == b"{}"
    assert server.asked[0].startswith("GET /firmware/v1/metadata/3.root.json HTTP/1.1")
    with pytest.raises(FileNotFoundError):
        list(client.open("metadata", "4.root.json"))
    for key in ("agent.cloud-unreachable", "agent.cloud-refused"):
        with pytest.raises(SourceError) as failed:
            list(client.open("targets", "releases/x/1.json"))
        assert failed.value.key == key
