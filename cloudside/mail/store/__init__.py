"""The durable queue.

queue     every operation on it, one transaction each
sqlite    the one writer thread: group commit
view      a read-only look for `kyoten mail`
"""
