"""The first free prefix in a block. Pure; race-free because a writing session holds the registry's write lock."""

from collections.abc import Iterable

from cloudside.registry.addresses import Network, contains, overlaps


def first_free(block: Network, length: int, taken: Iterable[Network]) -> Network | None:
    """The lowest prefix of ``length`` bits in ``block`` that shares no address with ``taken``; None when it is full.

    Jumps over each taken prefix instead of stepping through it, so a full block with n prefixes costs n steps.
    """
    if length < block.prefixlen or length > block.max_prefixlen:
        return None
    size = 1 << (block.max_prefixlen - length)
    spans = sorted(
        (int(other.network_address), int(other.broadcast_address)) for other in taken if overlaps(block, other)
    )
    start = int(block.network_address)
    for first, last in spans:
        if first >= start + size:
            break
        if last >= start:
            start += ((last - start) // size + 1) * size
    found = type(block)((start, length)) if start <= int(block.broadcast_address) else None
    return found if found is not None and contains(block, found) else None
