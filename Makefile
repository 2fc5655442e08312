# The verbs a person types. demo, test and bench set up what they need themselves and want root; check does not.
NAME ?= demo
PYTHON := .venv/bin/python

.PHONY: help demo demo-down test check bench setup

help:
	@echo "make demo          the whole product on this machine: build the world, run the main job, clean up"
	@echo "make demo KEEP=1   the same, and leave the world up to look around; make demo-down removes it"
	@echo "make test          every test (root)"
	@echo "make check         style, types, unit and property tests (no root)"
	@echo "make bench NAME=demo   measure; the last line is one JSON object"

setup:
	@lab/setup.sh

# setpriv: a make that is killed outright takes the demo with it.
demo: setup
	@setpriv --pdeathsig TERM .venv/bin/kyoten-lab demo $(if $(KEEP),--keep)

demo-down:
	@[ -x .venv/bin/kyoten-lab ] || { echo "nothing to remove: the demo has not run from this clone"; exit 0; }; \
	.venv/bin/kyoten-lab down

check:
	@lab/setup.sh venv
	@$(PYTHON) -m ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m pytest -q -n auto tests/unit tests/property

test: setup
	@.venv/bin/kyoten-lab preflight
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy
	@.venv/bin/kyoten-lab box -- $(PYTHON) -m pytest -q -n auto tests/unit tests/property
	@.venv/bin/kyoten-lab box -- $(PYTHON) -m pytest -q tests/lab

bench: setup
	@.venv/bin/kyoten-lab preflight
	@[ -e tests/bench/$(NAME).py ] || { echo "no benchmark named $(NAME); there are: $$(ls tests/bench | sed -n 's/\.py$$//p' | tr '\n' ' ')"; exit 2; }
	@.venv/bin/kyoten-lab box -- $(PYTHON) -m tests.bench.$(NAME)
