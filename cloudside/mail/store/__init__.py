"""The durable queue.

queue       every operation on it, one transaction each
accepting   taking a message: rows, counts, limits       moving   recipients from state to state
looking     what it tells without changing               purging  what the retention is over for
bodies      large bodies as files
engine      what the queue asks of an engine             schema, upgrading   tables and their versions
sqlite      one writer thread: group commit              postgresql, links, leases   several relays
control     the running relay's socket                   access, wire        the way of `kyoten mail` to it
"""
