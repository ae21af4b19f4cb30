# The two commands to know: `make demo` shows a running cloud on two machines of its own, `make test` runs every test.
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The environment holds this checkout as the collection ikcloud.compute.
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.venv/collections
export PYTHONPATH := $(CURDIR)/.venv/collections:$(CURDIR)/tests/tools
export PYTHONDONTWRITEBYTECODE := 1

LAYERS ?= lint unit real artifact examples playbooks pairs kill molecule
INVENTORY ?= inventory/lab
# Of make lab-up: vm, or container; and how many nodes.
KIND := $(or $(KIND),$(IKCLOUD_LAB_KIND),vm)
NODES ?= 2
export NODES
export IKCLOUD_LAB_KIND := $(KIND)

help: ## Show this
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: ## Make the Python environment in .venv
	@tests/tools/venv

demo: lab-up ## Run the talk's cloud on two virtual machines, and show it
	tests/tools/demo

lab-up: venv ## Start the nodes (KIND=vm or container, NODES=2), after building what is missing
	python -m lab up

lab-down: venv ## Stop the nodes and remove their state
	python -m lab down

# The same pairs each time.
test: export SEED ?= 20261123
test: venv ## Run the tests (LAYERS="lint unit" for some)
	@tests/tools/layers $(LAYERS)

lint: venv ## Check style, types and documentation
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-sanity lint-ansible lint-python

lint-python:
	ruff check .
	ruff format --check .
	mypy lab tests/tools
	MYPYPATH=tests/bench:. mypy tests/bench
	MYPYPATH=.venv/collections mypy -p ansible_collections.ikcloud.compute.plugins
	yamllint --strict .
	antsibull-changelog lint

lint-ansible:
	ansible-lint --strict

lint-sanity:
	tests/tools/sanity

unit: venv ## Run the tests that take neither root nor a node
	python -m pytest -q tests/unit

real: venv ## Run the tests against this machine's own tools, in namespaces and folders of their own
	tests/tools/packages
	python -m pytest -q --numprocesses 3 --dist worksteal $(wildcard $(addprefix tests/,netns storage qemu refusals))

kill: venv ## Kill site at every step there is, on nodes that are containers, and look whether the next run mends it (POINTS=1-50 for some)
	tests/tools/packages
	IKCLOUD_POINTS=$(POINTS) python -m pytest -q tests/converge/test_killed.py tests/converge/test_killed_controller.py

pairs: venv ## Go from one random declaration to the next, and edit by hand: what plan lists is what site does (PAIRS=200 SEED=…)
	tests/tools/packages
	IKCLOUD_PAIRS=$(PAIRS) IKCLOUD_SEED=$(SEED) python -m pytest -q tests/converge/test_by_hand.py tests/converge/test_plan_is_done.py

playbooks: venv ## Run the playbooks that act on instances, and look at the guests (in containers; KIND=vm for the vm lab)
	tests/tools/packages
	python -m pytest -q tests/lifecycle/test_playbooks.py

guests: venv ## Change, restart and rebuild guests with somebody logged in (in containers; KIND=vm for the vm lab)
	tests/tools/packages
	python -m pytest -q tests/lifecycle/test_live_in_lab.py

bench: venv ## Measure site beside the bare commands, libvirt and a loop over community.libvirt (MANY=20 MOST=100 ROUNDS=3)
	IKCLOUD_MANY=$(MANY) IKCLOUD_MOST=$(MOST) IKCLOUD_ROUNDS=$(ROUNDS) python -m pytest -q tests/bench

artifact: venv ## Build the collection, install it into an empty folder, and use it from there
	tests/tools/artifact

examples: venv ## Run the documentation's examples, on nodes that are containers
	tests/tools/packages
	tests/tools/examples

molecule: venv ## Run the cloud on the two nodes and look at all of it
	tests/tools/molecule

clean: ## Remove what was built (the nodes' images stay in the cache)
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible

.PHONY: help venv demo lab-up lab-down test lint lint-python lint-ansible lint-sanity unit real kill pairs playbooks guests bench artifact examples molecule clean
