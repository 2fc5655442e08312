"""The mail relay: nothing accepted is lost, every failure finds its sender, every flood is noticed.

intake     listeners: who may send, what is refused at the door
store      the durable queue
delivery   to the smarthost
bounces    reports of failures: written, read, received
watch      floods, silence, quota, troubles -> incidents -> notices
model      messages, recipients and their states
message    headers of a mail on its way through: strip, add, count Received
address    which envelope addresses are taken
service    composition root of `kyoten relay`
"""
