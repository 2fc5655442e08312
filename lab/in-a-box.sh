#!/bin/sh
# One file of lab tests in a world of its own; what it says comes in one piece, because others run beside it.
# What fails is run a second time, and said (docs/adr/0018).
set -u
said=$(mktemp)
in_a_box() {
    .venv/bin/kyoten-lab box -- .venv/bin/python -m pytest -q "$1" >>"$said" 2>&1
}
in_a_box "$1"
status=$?
if [ $status -eq 1 ]; then
    echo "SECOND TRY: $1" >>"$said"
    in_a_box "$1"
    status=$?
fi
echo "$1"
cat "$said"
rm -f "$said"
exit $status
