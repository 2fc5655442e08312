"""Bringing an embedded queue's file to the newest version, in place and in one transaction."""

import sqlite3

from cloudside.errors import ConfigurationError
from cloudside.mail.message import split
from cloudside.mail.store import schema

#: Tables of version 0, in the order that they are taken over.
_OLD = ("messages", "recipients", "events", "counts")


def upgrade(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring older ones to the newest version. All of it or nothing.

    Raises ConfigurationError: made by a newer version of ours; sqlite3.Error.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == schema.VERSION:
        return
    if version > schema.VERSION:
        raise ConfigurationError("mail.queue-newer", found=version, known=schema.VERSION)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            _make(connection)
        else:
            for statement in schema.second(schema.SQLITE):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _make(connection: sqlite3.Connection) -> None:
    """The newest tables, with what is in those of version 0, if there are any."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    old = [name for name in _OLD if name in names]
    for name in old:
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    # Their indexes have kept their names.
    indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    for (name,) in indexes:
        connection.execute(f"DROP INDEX {name}")
    for statement in schema.tables(schema.SQLITE):
        connection.execute(statement)
    if old:
        _take_over(connection)
    for name in reversed(old):
        connection.execute(f"DROP TABLE old_{name}")


def _take_over(connection: sqlite3.Connection) -> None:
    """Version 0 knew neither tenants nor devices, and kept head and body in one column until the end."""
    connection.execute(
        "INSERT INTO messages (id, kind, tenant, origin, device, source, sender, subject, automatic, urgent,"
        " accepted_at, size, once, head)"
        " SELECT id, kind, '', origin, '', source, sender, subject, automatic, 0, accepted_at, size, once, head"
        " FROM old_messages ORDER BY accepted_at, id"
    )
    whole = "SELECT m.seq, m.id FROM old_messages o JOIN messages m ON m.id = o.id WHERE o.content IS NOT NULL"
    for seq, message_id in connection.execute(whole).fetchall():
        (content,) = connection.execute("SELECT content FROM old_messages WHERE id = ?", (message_id,)).fetchone()
        head, body = split(content)
        connection.execute("UPDATE messages SET head = ? WHERE seq = ?", (head, seq))
        connection.execute("INSERT INTO bodies (message, body) VALUES (?, ?)", (seq, body))
    connection.execute(
        "INSERT INTO recipients (message, position, address, state, priority, attempts, next_attempt, changed_at,"
        " reply) SELECT m.seq, r.position, r.address, r.state, CASE m.kind WHEN 'notice' THEN 0 ELSE 2 END, r.attempts,"
        " r.next_attempt, r.changed_at, r.reply FROM old_recipients r JOIN messages m ON m.id = r.message"
    )
    connection.execute(
        "INSERT INTO events (message, position, at, event, detail) SELECT m.seq, e.position, e.at, e.event, e.detail"
        " FROM old_events e JOIN messages m ON m.id = e.message"
        # It wrote an event for each delivery; now the row tells that, unless something came after.
        " JOIN old_recipients r ON r.message = e.message AND r.position = e.position"
        " WHERE NOT (e.event = 'delivered' AND r.state = 'delivered') ORDER BY e.rowid"
    )
    connection.execute("INSERT INTO counts (scope, name, hour, sent) SELECT 'site', origin, hour, sent FROM old_counts")
