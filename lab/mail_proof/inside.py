"""What runs in the machine whose disk is watched: relay, clients and smarthost, until the time is over.

    python -m lab.mail_proof.inside PLACE SECONDS CLIENTS

The queue is on the watched disk's first partition (ext4, mounted as usual), the ledger on its second. Nothing is ended
properly and nothing unmounted: the machine goes off under it.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from cloudside.mail import service
from lab.mail_proof import place
from lab.mail_proof.clients import Clients
from lab.mail_proof.ledger import SectorLedger
from lab.mail_proof.power import MIX, QUEUE_DIRECTORY, SERIAL
from lab.mail_proof.smarthost import ScriptedSmarthost

_LISTENING_S = 120.0


def watched_disk() -> str:
    """Its name, without /dev. Raises FileNotFoundError."""
    for block in Path("/sys/block").iterdir():
        serial = block / "serial"
        if serial.exists() and serial.read_text().strip() == SERIAL:
            return block.name
    raise FileNotFoundError(f"no disk has the serial number {SERIAL}")


async def relay_and_leave(seconds: float, found: place.Place, clients: Clients, smarthost: ScriptedSmarthost) -> None:
    """Relay mail, print figures, and end this process without a farewell. The seconds count from when it listens."""
    task = asyncio.create_task(service.run(found.config, asyncio.Event()))
    async with asyncio.timeout(_LISTENING_S):
        while True:
            if task.done():
                await task
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", found.port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
    clients.start()
    sys.stderr.write(f"relaying {time.monotonic():.0f} s after the machine's start\n")
    done, _ = await asyncio.wait([task], timeout=seconds)
    for one in done:
        await one  # the relay ended before its time: say why
    figures = {"mails": len(clients.promised), "takes": len(smarthost.takes), "refused": clients.refused}
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Put everything in its place and run."""
    directory, seconds, count = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    disk = watched_disk()
    QUEUE_DIRECTORY.mkdir(parents=True)
    subprocess.run(["mount", "-t", "ext4", f"/dev/{disk}1", str(QUEUE_DIRECTORY)], check=True)
    book = SectorLedger(Path(f"/dev/{disk}2"))
    certificate, key = directory / "smarthost.pem", directory / "smarthost.key"
    port = json.loads((directory / "ports").read_text())
    found = place.Place(directory / "kyoten.toml", port["site"])
    sources = [*(f"127.0.1.{20 + number}" for number in range(count)), place.HELD_SOURCE]
    with ScriptedSmarthost(certificate, key, port=port["smarthost"], on_take=book.take) as smarthost:
        clients = Clients(book, found.port, sources, mix=MIX)
        asyncio.run(relay_and_leave(seconds, found, clients, smarthost))


if __name__ == "__main__":
    main()
