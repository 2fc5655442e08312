"""Mail: one delivered, one bounced to its sender, a flood that is alarmed once."""

import time
from email.message import Message

from lab import mail_hosts, topology
from lab.controller import Answer, send_mail
from lab.demo.report import Line
from lab.network import wait_until
from lab.world import World

SENDER, RECIPIENT, NOBODY = "alarm@acme.example", "facilities@acme.example", "left-the-company@acme.example"

DELIVERED_WITHIN_S, BOUNCED_WITHIN_S, ALARMED_WITHIN_S = 20.0, 30.0, 15.0

#: The relay looks for untold incidents each second: a second notice of the same one would have come by then.
SECOND_ALARM_S = 2.5


def delivered(world: World) -> list[Line]:
    """A controller's mail reaches the mailbox, through relay and smarthost."""
    subject = "Pump 3 stopped"
    start = time.monotonic()
    answer = _send(world, "tokyo-1", "plc", subject, RECIPIENT)
    wait_until("the mail in its mailbox", lambda: bool(_found(world, RECIPIENT, subject)), timeout_s=DELIVERED_WITHIN_S)
    took = time.monotonic() - start
    return [
        Line(
            "a controller's mail delivered",
            answer.code == 250,
            f"{answer.code} after {answer.took_ms:.0f} ms, in the mailbox {took:.1f} s after the controller began",
        )
    ]


def bounced(world: World) -> list[Line]:
    """Mail to somebody who left: the failure comes back to the sender's mailbox, as a DSN that names the recipient."""
    start = time.monotonic()
    answer = _send(world, "osaka-1", "plc", "Filter change due", NOBODY)
    wait_until("the bounce in the sender's mailbox", lambda: bool(_reports(world, NOBODY)), timeout_s=BOUNCED_WITHIN_S)
    report = _reports(world, NOBODY)
    took = time.monotonic() - start
    return [
        Line(
            "a bounce returned to its sender",
            answer.code == 250 and len(report) == 1 and report[0].get_content_type() == "multipart/report",
            f"{NOBODY} unknown there; {len(report)} delivery report in {SENDER}'s mailbox after {took:.1f} s",
        )
    ]


def flood(world: World) -> list[Line]:
    """More mail than the site's hourly limit, twice over: staff hear of it once."""
    limit = world.config.relay.hourly_limit_per_site
    count, subject = limit * 2 + 5, "Stuck relay"
    host = world.ground.sites["nagoya-1"].controllers["plc"]
    answers = send_mail(
        host, server=str(topology.SERVICE_ADDRESS), sender="alarm@birch.example",
        recipients=["facilities@birch.example"], subject=subject, count=count,
    )  # fmt: skip
    start = time.monotonic()
    wait_until("the alarm in staff's mailbox", lambda: bool(_alarms(world)), timeout_s=ALARMED_WITHIN_S)
    took = time.monotonic() - start
    wait_until(
        "every mail of the flood delivered",
        lambda: len(_found(world, "facilities@birch.example", subject)) >= count,
        timeout_s=DELIVERED_WITHIN_S,
    )
    time.sleep(SECOND_ALARM_S)
    alarms = _alarms(world)
    arrived = len(_found(world, "facilities@birch.example", subject))
    accepted = sum(answer.code == 250 for answer in answers)
    return [
        Line(
            "a flood alarmed once, and none of its mail lost",
            len(alarms) == 1 and accepted == count == arrived,
            f"{count} mails against a limit of {limit} an hour: {accepted} accepted, {arrived} delivered, "
            f"{len(alarms)} alarm to staff {took:.1f} s after the last: {alarms[0]['Subject']}",
        )
    ]


def start_hosts(world: World) -> None:
    """Start the SES stand-in and the mailbox host."""
    world.mail = mail_hosts.start(world.ground)


def _send(world: World, site: str, device: str, subject: str, recipient: str) -> Answer:
    host = world.ground.sites[site].controllers[device]
    server = str(topology.SERVICE_ADDRESS)
    return send_mail(host, server=server, sender=SENDER, recipients=[recipient], subject=subject)[0]


def _found(world: World, known: str, subject: str) -> list[Message]:
    return [message for message in world.mailbox(known) if message["Subject"] == subject]


def _reports(world: World, recipient: str) -> list[Message]:
    return [
        message
        for message in world.mailbox(SENDER)
        if message.get_content_type() == "multipart/report" and recipient in message.as_string()
    ]


def _alarms(world: World) -> list[Message]:
    return [message for message in world.mailbox(mail_hosts.STAFF) if "nagoya-1" in str(message["Subject"])]
