#!/bin/sh
# One file of lab tests in a world of its own; what it says comes in one piece, because others run beside it.
set -u
said=$(mktemp)
.venv/bin/kyoten-lab box -- .venv/bin/python -m pytest -q "$1" >"$said" 2>&1
status=$?
echo "$1"
cat "$said"
rm -f "$said"
exit $status
