# The two commands to know: `make demo` shows a running cloud on two machines of its own, `make test` runs every test.
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The environment holds this checkout as the collection ikcloud.compute.
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.venv/collections
export PYTHONPATH := $(CURDIR)/.venv/collections:$(CURDIR)/tests/tools
export PYTHONDONTWRITEBYTECODE := 1

# Of make test and make test-all; all of them where none is named.
LAYERS ?=
INVENTORY ?= inventory/lab
# Of make lab-up: vm, or container; how many nodes; and their release (bookworm, trixie), this machine's own where nothing is said.
KIND := $(or $(KIND),$(IKCLOUD_LAB_KIND),vm)
NODES ?= 2
export NODES
export IKCLOUD_LAB_KIND := $(KIND)
export IKCLOUD_LAB_DISTRIBUTION := $(or $(DISTRIBUTION),$(IKCLOUD_LAB_DISTRIBUTION))

help: ## Show this
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: ## Make the Python environment in .venv
	@tests/tools/venv

demo: lab-up ## Run the talk's cloud on two virtual machines, and show it
	tests/tools/demo

lab-up: venv ## Start the nodes (KIND=vm or container, NODES=2, DISTRIBUTION=trixie), after building what is missing
	python -m lab up

lab-down: venv ## Stop the nodes and remove their state
	python -m lab down

test: venv ## Run the tests, of the long layers a short round (LAYERS="lint unit" for some)
	@tests/tools/layers.py --test $(LAYERS)

test-all: venv ## Run all of the tests that have not passed with what they depend on as it is (AGAIN=1: those too)
	@tests/tools/layers.py --all $(if $(AGAIN),--again) $(LAYERS)

test-table: venv ## Show which layers of test-all have passed, and at which commit
	@tests/tools/layers.py --table

docs: venv ## Draw the picture of the packages in docs/architecture.md from the imports
	python tests/tools/imports.py --write

lint: venv ## Check style, types and documentation
	@tests/tools/layers.py lint

unit: venv ## Run the tests that take neither root nor a node
	@tests/tools/layers.py unit

real: venv ## Run the tests against this machine's own tools, in namespaces and folders of their own
	@tests/tools/layers.py real

refusals: venv ## Give playbooks what they refuse, and look that nothing has changed
	@tests/tools/layers.py refusals

kill: venv ## Kill site at every step there is, on nodes that are containers, and look whether the next run fixes it (POINTS=1-50 for some)
	@IKCLOUD_POINTS=$(POINTS) tests/tools/layers.py kill

pairs: venv ## Go from one random declaration to the next, and edit by hand: what plan lists is what site does (PAIRS=200 SEED=…)
	@IKCLOUD_PAIRS=$(PAIRS) IKCLOUD_SEED=$(SEED) tests/tools/layers.py pairs

playbooks: venv ## Run the playbooks that act on instances, and look at the guests (in containers; KIND=vm for the vm lab)
	@tests/tools/layers.py playbooks

secrets: venv ## Look for planted secrets in all that runs leave: journals, files, the screen, what callbacks hear
	@tests/tools/layers.py secrets

hostile: venv ## Do what a hostile QEMU can do to its own folder: it stops nobody but its own instance
	@tests/tools/layers.py hostile

guests: venv ## Change, restart and rebuild guests with somebody logged in (in containers; KIND=vm for the vm lab)
	@tests/tools/layers.py guests

artifact: venv ## Build the collection, install it into an empty folder, and use it from there
	@tests/tools/layers.py artifact

examples: venv ## Run the documentation's examples, on nodes that are containers
	@tests/tools/layers.py examples

molecule: venv ## Run the cloud on the two nodes and look at all of it
	@tests/tools/layers.py molecule

debian13: venv ## Run playbooks, guests, a tenth of kill, 50 pairs and edits by hand on nodes of Debian 13
	@tests/tools/layers.py debian13

bench: venv ## Measure site beside the bare commands, libvirt and a loop over community.libvirt (MANY=20 MOST=100 ROUNDS=3)
	IKCLOUD_MANY=$(MANY) IKCLOUD_MOST=$(MOST) IKCLOUD_ROUNDS=$(ROUNDS) python -m pytest -q tests/bench

clean: ## Remove what was built (the nodes' images stay in the cache)
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible

.PHONY: help docs venv demo lab-up lab-down test test-all test-table lint unit real refusals kill pairs playbooks secrets hostile guests bench artifact examples molecule debian13 clean
