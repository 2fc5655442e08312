"""Numbers of the lines' own routing tables. Pure, and nothing else is loaded for it."""

#: Tables of the lines, one each in their order. charon is told to leave them out of its own route lookups.
FIRST_TABLE = 231
TABLES_MOST = 8


def tables() -> tuple[int, ...]:
    """The tables that belong to lines."""
    return tuple(range(FIRST_TABLE, FIRST_TABLE + TABLES_MOST))
