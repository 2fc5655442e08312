"""The JSON Schema that binds routers and cloud: ``python -m cloudside.fleet.schema`` rewrites the file.

Neither side imports the other; both sides' tests hold their documents against this file.
"""

import json
from pathlib import Path

from pydantic.json_schema import models_json_schema

from cloudside.fleet.protocol import (
    PROTOCOL_VERSION,
    CertificateRequest,
    Certificates,
    CommandResult,
    CrashReport,
    EnrolmentRequest,
    Heartbeat,
    HeartbeatAnswer,
    LogPullState,
    PieceAnswer,
)

PATH = Path(__file__).parents[2] / "docs" / "schema" / "agent-protocol.json"


def schema_text() -> str:
    """The schema as the file has it. Document types stand under ``$defs`` by their names in protocol."""
    documents = (
        Heartbeat, HeartbeatAnswer, CertificateRequest, EnrolmentRequest, Certificates,
        PieceAnswer, LogPullState, CommandResult, CrashReport,
    )  # fmt: skip
    _, definitions = models_json_schema(
        [(document, "validation") for document in documents],
        title=f"Kyoten agent protocol, version {PROTOCOL_VERSION}",
    )
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **definitions}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(schema_text(), encoding="utf-8")
