"""The schema file that routers are held to is the one that the models yield, and it accepts what we send."""

import json

import jsonschema
from fleet_cloud import heartbeat_document

from cloudside.fleet import schema
from cloudside.fleet.protocol import DesiredSettings, HeartbeatAnswer, LogRequest


def test_the_file_is_up_to_date() -> None:
    assert schema.PATH.read_text(encoding="utf-8") == schema.schema_text(), "run python -m cloudside.fleet.schema"


def test_a_heartbeat_and_an_answer_fit() -> None:
    document = json.loads(schema.schema_text())
    answer = HeartbeatAnswer(
        heartbeat_s=30,
        settings=DesiredSettings(version=2, values={"tunnel.gateways": ["a", "b"], "tunnel.dpd_s": 5.0}, confirm_s=60),
        log_requests=[LogRequest(id="a" * 32, lines=10)],
    )
    for name, sent in (("Heartbeat", heartbeat_document()), ("HeartbeatAnswer", answer.model_dump_json())):
        jsonschema.validate(json.loads(sent), {**document, "$ref": f"#/$defs/{name}"})


def test_a_wrong_heartbeat_does_not_fit() -> None:
    document = json.loads(schema.schema_text())
    wrong = json.loads(heartbeat_document(uplink={"kind": "pigeon"}))
    validator = jsonschema.Draft202012Validator({**document, "$ref": "#/$defs/Heartbeat"})
    assert not validator.is_valid(wrong)
