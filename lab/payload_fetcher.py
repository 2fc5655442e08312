"""The router's side of fetching as a process of its own: ``python -m lab.payload_fetcher REQUEST``.

REQUEST is a JSON file: the release's file, the directory, papers, the endpoint, a rate. Progress goes to standard
output, a JSON object a line; the last one says ``done`` or ``failed``.
"""

import json
import ssl
import sys
import time
from pathlib import Path

from firmware.release import File
from router_agent.bundle import Endpoint
from router_agent.errors import AgentError
from router_agent.update.client import FirmwareClient
from router_agent.update.fetch import fetch
from router_agent.update.work import Progress


def main() -> int:
    """Fetch; 0 when all is there."""
    wanted = json.loads(Path(sys.argv[1]).read_text())
    papers = Path(wanted["papers"])
    context = ssl.create_default_context(cafile=str(papers / "authority.pem"))
    context.load_cert_chain(papers / "router.pem")
    client = FirmwareClient(
        context,
        name="agent.kyoten",
        device_id="0f" * 32,
        source="0.0.0.0",
        endpoints=tuple(Endpoint(address, port, False) for address, port in wanted["endpoints"]),
        receive_buffer_bytes=wanted["receive_buffer_bytes"],
        silence_s=wanted["silence_s"],
    )
    began = time.monotonic()

    def say(**words: object) -> None:
        sys.stdout.write(json.dumps({"at_s": round(time.monotonic() - began, 2), **words}) + "\n")
        sys.stdout.flush()

    def report(progress: Progress) -> None:
        say(done=progress.done, travelled=progress.travelled)

    file = File(**{**wanted["file"], "chunks": tuple(wanted["file"]["chunks"])})
    try:
        fetch(
            file,
            client,
            Path(wanted["directory"]),
            now=time.monotonic,
            sleep=time.sleep,
            report=report,
            rate_bytes_s=wanted["rate_bytes_s"],
        )
    except AgentError as error:
        say(failed=error.key, params=dict(error.params))
        return 1
    say(finished=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
