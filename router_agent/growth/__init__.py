"""The data partition takes what a larger disk has: the table, the kernel's view of it, the file system, in this order.

grow      what is done, and in which order; level-triggered: a run that was cut off is finished by the next
disk      the disk, the kernel, the file system. All I/O

Runs once a start has ended well, if a look at the sizes says that there is something to gain
(images/router/root/usr/lib/kyoten/data-can-grow). Why so: docs/adr/0027-data-partition.md.
"""
