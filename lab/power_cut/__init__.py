"""A virtual machine's disk as a power cut at any moment would have left it.

write_log   every write and flush of the machine, as QEMU logs them
disk        the disk brought forward along that log, with any part of what was not flushed
"""
