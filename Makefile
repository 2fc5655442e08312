# The verbs a person types. demo, test and bench set up what they need themselves and want root; check does not.
NAME ?= demo
PYTHON := .venv/bin/python
# Twice the cores: unit tests of daemons wait more than they work.
WORKERS := $(shell echo $$((2 * $$(nproc))))

.PHONY: help demo demo-down demo-vm image test check bench setup style types quick-tests lab-tests

help:
	@echo "make demo          the whole product on this machine: build the world, run the main job, clean up"
	@echo "make demo KEEP=1   the same, and leave the world up to look around; make demo-down removes it"
	@echo "make demo-vm       the router's image in a virtual machine: it enrols, its tunnel comes up, its LAN is reached"
	@echo "make image         the router's image in build/image: disk, signed bundle, list of what is inside (root)"
	@echo "make test          every test (root)"
	@echo "make check         style, types, unit and property tests (no root)"
	@echo "make bench NAME=demo   measure; the last line is one JSON object; ONLY=PART measures one part of it,"
	@echo "                       RESUME=1 (firmware, mail, vpn) goes on where a run was ended"

setup:
	@lab/setup.sh

# setpriv: a make that is killed outright takes the demo with it.
demo: setup
	@setpriv --pdeathsig TERM .venv/bin/kyoten-lab demo $(if $(KEEP),--keep)

demo-down:
	@[ -x .venv/bin/kyoten-lab ] || { echo "nothing to remove: the demo has not run from this clone"; exit 0; }; \
	.venv/bin/kyoten-lab down

# What the image needs is made before: a box has no way to Debian's archive.
demo-vm: setup
	@lab/setup.sh vm
	@disk=$$($(PYTHON) -m lab.appliance.image) && place=$$(mktemp -d /var/tmp/kyoten-demo-vm.XXXXXX) && \
	{ setpriv --pdeathsig TERM .venv/bin/kyoten-lab box -- $(PYTHON) -m lab.appliance.proof "$$disk" "$$place" \
		first-start serves verity memory closed second-start; status=$$?; rm -rf "$$place"; exit $$status; }

# ARGS: see `.venv/bin/python -m firmware.image build --help`; a release has its version, keys and TUF root there.
image:
	@lab/setup.sh image
	@$(PYTHON) -m firmware.image build $(ARGS)

check:
	@lab/setup.sh venv
	@$(MAKE) --no-print-directory -j2 --output-sync=target style types quick-tests

# Some unit tests hold our bytes against the programs of the image (veritysetup, rauc, zstd): everything is set up first.
test:
	@lab/setup.sh vm
	@.venv/bin/kyoten-lab preflight
	@$(MAKE) --no-print-directory style types
	@.venv/bin/kyoten-lab box -- $(PYTHON) -m pytest -q -n $(WORKERS) tests/unit tests/property || { \
		echo "SECOND TRY: unit and property tests that failed"; \
		.venv/bin/kyoten-lab box -- $(PYTHON) -m pytest -q --last-failed tests/unit tests/property; }
	@$(MAKE) --no-print-directory lab-tests
	@$(PYTHON) -m pytest -q tests/vm || { \
		echo "SECOND TRY: VM tests that failed"; $(PYTHON) -m pytest -q --last-failed tests/vm; }

# Each of the three stages runs what failed a second time, and says so (docs/adr/0018).
# Lab tests wait more than they work: two at a time, the largest first, each in a box of its own.
lab-tests:
	@ls -S tests/lab/test_*.py | xargs -P 2 -n 1 lab/in-a-box.sh

style:
	@$(PYTHON) -m ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@$(PYTHON) -m ruff check --quiet .

types:
	@$(PYTHON) -m mypy

quick-tests:
	@$(PYTHON) -m pytest -q -n $(WORKERS) tests/unit tests/property

# The router's image is built before: a box has no way to Debian's archive.
bench: setup
	@.venv/bin/kyoten-lab preflight
	@[ -e tests/bench/$(NAME).py ] || { echo "no benchmark named $(NAME); there are: $$(ls tests/bench | sed -n 's/\.py$$//p' | tr '\n' ' ')"; exit 2; }
	@$(if $(filter firmware,$(NAME)),lab/setup.sh vm && $(PYTHON) -m tests.bench.firmware_image prepare,true)
	@.venv/bin/kyoten-lab box -- $(PYTHON) -m tests.bench.$(NAME) $(if $(ONLY),--only $(ONLY))$(if $(RESUME), --resume)
