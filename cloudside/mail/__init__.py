"""The mail relay: nothing accepted is lost, every failure finds its sender, every flood is noticed.

model      messages, recipients and their states
message    headers of a mail on its way through: strip, add, count Received
outcome    what a reply of the smarthost means, when to try again; the pacer
verp, dsn, bounce   signed return addresses; write and read non-delivery reports
storage, queue      the one SQLite writer thread; durable operations on it
view       read-only look at the queue for `kyoten mail`
directory  who may send: last good snapshot of the registry
gate       limits on connections and on failed logins
listener, bounce_listener   aiosmtpd with its traps closed
delivery   to the smarthost
watch      floods and troubles -> incidents -> notices
service    composition root of `kyoten relay`
"""
