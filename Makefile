# `make test` needs make, python3 and, for the booted hosts, root. It installs everything else.
.DEFAULT_GOAL := help
.PHONY: help setup format lint unit fuzz fuzz-smoke functional faults release test test-nova \
	test-nova-25 test-kernel pack test-pack lock demo bench record-host docs update-docs clean

# Everything that is downloaded or built stays in this folder.
VENV := $(CURDIR)/.venv
export PIP_CACHE_DIR ?= $(CURDIR)/build/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Interpreters of pyenv are used as well as those of the system.
space := $(subst ,, )
PYENV_BINS := $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.*/bin)
TOX := PATH="$(subst $(space),:,$(strip $(PATH) $(PYENV_BINS)))" $(VENV)/bin/tox -q
CHARMCRAFT := $(CURDIR)/build/charmcraft
UV := $(CURDIR)/build/uv
# The tests write hundreds of thousands of short-lived files: use /dev/shm if 1 GiB is free there.
export PYTEST_DEBUG_TEMPROOT ?= $(shell df --output=avail /dev/shm 2>/dev/null | \
	awk '$$1 + 0 > 1024 * 1024 {print "/dev/shm"}')
# Mounts and processes of the booted hosts end with the command that created them.
NAMESPACE := $(shell unshare --mount --pid --fork true 2>/dev/null && \
	echo unshare --mount --pid --fork --kill-child --mount-proc)

# Booted hosts are idle part of the time. worksteal moves waiting tests to workers that are free.
PARALLEL := --numprocesses 3 --dist worksteal

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready  ## Install what the other targets need, and list it

$(VENV)/ready: tests/setup tests/functional/requirements.txt
	@tests/setup "$(VENV)"
	@touch $@

format: setup  ## Format the code
	@$(TOX) run -e format

lint: setup  ## Check format, style, spelling and types
	@$(TOX) run -e lint

unit: setup  ## Run the unit tests on every Python that is found, with coverage on one
	@$(TOX) run-parallel --parallel 2 --parallel-no-spinner \
		-e unit,py38,py39,py310,py312,py313,py314

fuzz: setup  ## Run the charm with generated input, at least 20,000 examples
	@$(TOX) run -e fuzz

fuzz-smoke: setup  ## Run the charm with a few of those examples, the same each time
	@$(TOX) run -e fuzz-smoke

functional: setup  ## Run the charm's dispatch on booted hosts; BASE=20.04 uses that base's charm
	@$(NAMESPACE) $(VENV)/bin/python -m pytest tests/functional $(PARALLEL) $(if $(BASE),--base $(BASE))

faults: setup  ## Cause all faults, including crashes at every step, and write docs/reference/faults.md
	@$(NAMESPACE) $(VENV)/bin/python -m pytest tests/functional $(PARALLEL) --every-crash --write-faults

release: setup  ## Check the test suite for a cloud, the Terraform module and the workflow
	@$(TOX) run -e release

docs: setup  ## Check the examples of the documentation, and build it into build/docs/html
	@$(TOX) run -e docs

update-docs: setup  ## Write outputs, tables and pictures into the documentation
	@$(TOX) run -e update-docs

test: lint unit docs fuzz-smoke functional release  ## Run lint, unit, docs, fuzz-smoke, functional, release

test-nova: setup  ## Boot servers on Nova itself with the charm's configuration, without hardware
	@$(TOX) run -e nova

test-nova-25: setup  ## Boot servers with whole cards on Nova 25, which needs Python 3.10
	@$(TOX) run -e nova-25

test-kernel: setup  ## Bind whole cards on a real kernel in QEMU, without KVM or hardware
	@tests/kernel/setup
	@$(NAMESPACE) $(VENV)/bin/python -m pytest -rs tests/kernel

$(CHARMCRAFT)/ready: packing/setup packing/requirements.txt
	@packing/setup "$(CHARMCRAFT)"
	@touch $@

pack: $(CHARMCRAFT)/ready  ## Pack the charm for all bases into build/charms
	@$(CHARMCRAFT)/bin/python packing/pack.py

test-pack: setup pack  ## Check the packed charms, and run them on the Pythons of their bases
	@$(NAMESPACE) $(VENV)/bin/python -m pytest -rs tests/packed

lock:  ## Regenerate requirements/: the newest that requirements.txt and each Python allow
	@python3 -m venv --clear "$(UV)"
	@"$(UV)/bin/python" -m pip install -q "uv>=0.9,<1" 'tomli>=2,<3; python_version < "3.11"'
	@"$(UV)/bin/python" packing/lock.py "$(UV)/bin/uv"

demo: setup  ## Show the charm at work on simulated hosts
	@$(VENV)/bin/python tests/functional/demo.py

record-host:  ## Print a file for tests/hosts that describes this host's cards
	@python3 tests/record_host.py

bench: setup $(CHARMCRAFT)/ready  ## Compare the packed charm's hooks with a no-op charm's
	@$(CHARMCRAFT)/bin/python packing/pack.py --output build/bench ubuntu@22.04:amd64
	@$(VENV)/bin/python tests/functional/bench.py build/bench/*.charm

clean:  ## Remove everything that was downloaded or built
	rm -rf build .tox .venv
