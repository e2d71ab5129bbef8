# Requires git, make and Python 3.11 on Debian 12. Everything else is installed on first use: Python packages into
# .venv, Debian packages by scripts/system-packages (with sudo unless root).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Debian's own Python 3.11 comes first: one that was compiled without optimization by profiles (pyenv's) is a quarter slower.
# It has to be able to make .venv and to build libvirt-python, which needs python3-venv and python3-dev.
PYTHON ?= $(shell { /usr/bin/python3.11 -c '$(IS_COMPLETE)' 2>/dev/null && echo /usr/bin/python3.11; } || \
	command -v python3.11 || echo python3)
IS_COMPLETE := import ensurepip, os, sysconfig, venv; os.stat(sysconfig.get_config_h_filename())
VENV := .venv
RUN := $(VENV)/bin/python -m
# Set up again after a change of the requirements, or when the checkout was moved.
READY := $(VENV)/.ready-$(shell pwd -P | cksum | cut -d ' ' -f 1)

.PHONY: help
help: ## list the targets (the default)
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: demo
demo: page | hosts-packages ## bring a testbed of three hosts up, draw it, change it while it runs, prove what it connects
	scripts/demo

.PHONY: test
test: ## check, then run every test, those against real libvirt, QEMU and OVS too
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target page check test-packages compiled-tests
	scripts/test

# else each of the processes of scripts/test would compile all tests, all of them at the same time
.PHONY: compiled-tests
compiled-tests: $(READY)
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) pytest --collect-only --quiet -p no:cacheprovider >/dev/null || true

.PHONY: test-long
test-long: page | test-packages ## run the random tests alone, with many more examples, and those of many minutes
	KVM_COMPOSE_TEST_LONG=1 scripts/test -m long --timeout 1800

# for manual tests: the hosts that tests of several hosts use, each with its own libvirtd, Open vSwitch and sshd
N ?= 3
SHELL_COMMAND ?= bash
.PHONY: hosts hosts-down hosts-shell
hosts: page | hosts-packages ## start N test hosts on this machine (make hosts N=3), for manual tests
	@# the hosts have no network: the image of the examples is built before
	@$(VENV)/bin/kvm-compose --quiet cloud-images build micro || \
		echo "the image 'micro' is not here: build it outside the hosts, $(VENV)/bin/kvm-compose cloud-images build micro"
	@PYTHONPATH=tests $(RUN) hosts up --tunnels --count $(N)
	@echo "open a shell in the main host: make hosts-shell; stop the hosts: make hosts-down"
	@echo "there, for example: kvm-compose -C examples/three-hosts up"

HOSTS := $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/kvm-compose-hosts

hosts-shell: ## open a shell in the first test host, with kvm-compose in its PATH, for projects on these hosts
	@PYTHONPATH=tests $(RUN) hosts exec h1 -- env -C "$(CURDIR)" "PATH=$(CURDIR)/$(VENV)/bin:$$PATH" \
		"HOME=$$HOME" "TERM=$$TERM" "KVM_COMPOSE_CONFIG=$(HOSTS)/kvm-compose-config.json" \
		"KVM_COMPOSE_STATE_DIR=$(HOSTS)/server" $(SHELL_COMMAND)

hosts-down: ## stop the test hosts and everything in them
	@PYTHONPATH=tests $(RUN) hosts down

.PHONY: bench
bench: page .cache/snakemake/bin/snakemake | bench-packages ## compare with ninja, make and doit, and measure large testbeds; writes docs/benchmarks*.md
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements/bench.txt
	$(VENV)/bin/python scripts/bench
	$(VENV)/bin/python scripts/bench-testbeds
	$(VENV)/bin/python scripts/bench-page
	$(VENV)/bin/python scripts/bench-guests
	$(VENV)/bin/python scripts/bench-containers
	$(VENV)/bin/python scripts/bench-ovn

.cache/snakemake/bin/snakemake: requirements/snakemake.txt | base-packages
	$(PYTHON) -m venv --clear .cache/snakemake
	.cache/snakemake/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

.PHONY: check
check: lint types layers shell docs page-check ## style, types, layers, shell scripts, documentation, the page

.PHONY: lint
lint: $(READY)
	$(RUN) ruff check
	$(RUN) ruff format --check

.PHONY: types
types: $(READY)
	$(RUN) mypy

.PHONY: layers
layers: $(READY)
	$(VENV)/bin/lint-imports --no-logo

# every file with a shell shebang, untracked ones too; golden files are data
.PHONY: shell
shell: | base-packages
	git grep --untracked -lzE '^#!(/usr/bin/env bash|/bin/(ba|da)?sh)' -- \
		':!*.md' ':!*.py' ':!templates' ':!tests/golden' | xargs -0 shellcheck

.PHONY: docs
docs: $(READY) ## build the documentation into site/
	$(RUN) zensical build --clean --strict

# web/page.py does nothing where the page was built from the sources that are here
.PHONY: page page-check page-watch
page: $(READY) ## build the page of the server, web/, into kvmcompose/web
	$(VENV)/bin/python web/page.py

page-check: page
	$(VENV)/bin/python web/page.py npm run --silent check

page-watch: $(READY) ## build the page at each change, with source maps and not minified, until Ctrl-C
	$(VENV)/bin/python web/page.py npm run --silent watch

.PHONY: reference
reference: $(READY) ## generate the reference pages and the schema from the code
	$(VENV)/bin/python scripts/reference
	$(VENV)/bin/kvm-compose schema >examples/kvm-compose.schema.json

.PHONY: format
format: $(READY) ## format the code
	$(RUN) ruff check --fix
	$(RUN) ruff format
	$(VENV)/bin/python web/page.py npm run --silent format

# pip-tools is installed apart from what it pins. The files contain no index addresses, which depend on the machine.
PIN = CUSTOM_COMPILE_COMMAND='make requirements' .cache/pip-tools/bin/pip-compile --quiet --upgrade \
	--strip-extras --generate-hashes --allow-unsafe --no-emit-options --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host

.PHONY: requirements
requirements: $(READY) ## pin the newest versions of all requirements
	$(PYTHON) -m venv .cache/pip-tools
	.cache/pip-tools/bin/python -m pip install --quiet pip-tools
	$(PIN) --output-file requirements/base.txt pyproject.toml
	$(PIN) --extra server --constraint requirements/base.txt --output-file requirements/server.txt \
		pyproject.toml
	$(PIN) --extra placement --constraint requirements/base.txt --output-file requirements/placement.txt \
		pyproject.toml
	$(PIN) --output-file requirements/dev.txt requirements/dev.in

.PHONY: clean
clean: ## remove built and cached files, but not .venv
	rm -rf build dist site kvmcompose/web web/.cache web/node_modules .cache .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find kvmcompose microimage tests examples -name __pycache__ -prune -exec rm -rf {} +
	rm -rf examples/*/artefacts examples/*/.kvm-compose examples/*/state.json examples/own-dodo/macs.csv

.PHONY: base-packages hosts-packages test-packages bench-packages
base-packages:
	@scripts/system-packages base
hosts-packages: | base-packages # apt serves one at a time
	@scripts/system-packages hosts
test-packages: | base-packages
	@scripts/system-packages test
bench-packages:
	@scripts/system-packages bench

$(READY): requirements/base.txt requirements/server.txt requirements/placement.txt requirements/dev.txt \
		pyproject.toml | base-packages
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/base.txt -r requirements/server.txt -r requirements/placement.txt \
		-r requirements/dev.txt
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	rm -f $(VENV)/.ready-*
	touch $@
