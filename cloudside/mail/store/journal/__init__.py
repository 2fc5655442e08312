"""Mail that has its 250 before the queue has it: synced into a file by the process that took it, then taken over.

A journal belongs to one process and is never read while that lives. The queue's transaction that takes mails over says
how far it came in their journal; what a journal has beyond that is taken over at the next start.

records    a mail as octets; a file's octets as mails. Pure
file       the file: written, synced, written over when the queue has it all
ahead      takes mail into a journal where that is enough, and leaves the rest to the queue
taking     what the queue does with them, in one transaction
adoption   brings what a living journal has into the queue
leftover   the same for journals of processes that are dead, at start
"""
