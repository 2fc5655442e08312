"""Adding to rows that may be there already, in one statement, on either engine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cloudside.registry.tables import Table


def upsert(
    session: Session,
    table: type[Table],
    rows: Sequence[Mapping[str, Any]],
    *,
    summed: Iterable[str] = (),
    replaced: Iterable[str] = (),
) -> None:
    """Write rows. Where one with the same key is there, columns ``summed`` are added to it, those ``replaced`` take its
    values' place, and the others stay.
    """
    if not rows:
        return
    # The two dialects' ON CONFLICT have the same form; the generic insert has none.
    insert = postgresql.insert(table) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(table)
    there, new = table.__table__.c, insert.excluded
    changed = {name: there[name] + new[name] for name in summed} | {name: new[name] for name in replaced}
    key = [column.name for column in table.__table__.primary_key]
    session.execute(insert.on_conflict_do_update(index_elements=key, set_=changed), rows)
