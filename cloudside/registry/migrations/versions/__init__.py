"""One file a schema version, in order. A published one is never edited."""
