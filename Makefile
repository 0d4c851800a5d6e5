# Every command of Tally; `make` alone lists them. Each does its own set-up first.

MAKEFLAGS += --no-print-directory
PYTHON := .venv/bin/python
WORKERS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run demo load test simulate check faults bench where psql lock sbom audit clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup setup-dev: # .venv as requirements.lock says, or requirements-dev.lock; quick when done already
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec $$python stack/bootstrap.py $(if $(filter setup-dev,$@),--dev); \
		fi; \
	done; \
	echo 'tally: Python 3.11 or newer is needed, and none is on the path' >&2; exit 1

# exec: signals to make, or to its process group, reach the job itself, which stops in order.

run: setup ## the whole job in the foreground; Ctrl-C stops it. WORKERS=n
	@exec $(PYTHON) -m stack run --workers '$(WORKERS)'

demo: setup ## the same with generated traffic. RATE=events a second, OBSERVE=1 with Prometheus
	@exec $(PYTHON) -m stack demo --workers '$(WORKERS)' $(if $(filter-out 0,$(OBSERVE)),--observe)

load: setup ## the load generator against a running gateway. ARGS=
	@exec $(PYTHON) -m load $(ARGS)

# Two files at a time, since most tests wait for processes; each half has a Kafka and a Postgres of its own.
test: setup-dev ## every test, on a throw-away Kafka and Postgres of its own. ARGS=
	@exec $(PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

simulate: setup-dev ## simulated schedules of faults, without bound. SEED=, COUNT=, STEPS=, PLANT=
	@SEED='$(SEED)' COUNT='$(COUNT)' STEPS='$(STEPS)' PLANT='$(PLANT)' exec $(PYTHON) -m tests.simulation

check: setup-dev ## format, lint, types, import contracts, unit tests
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports
	@exec $(PYTHON) -m pytest -q tests/unit tests/tidy streams tables agents sinks views gateway dashboard stack load bench client

faults: setup-dev ## the fault matrix, a table of every case. CASE= SEED= LONG=1
	@exec $(PYTHON) -m tests.fault

bench: setup-dev ## the benchmarks, a table and bench/results/. CASE= RUNS= PEERS=1 SCALE=
	@CASE='$(CASE)' RUNS='$(RUNS)' PEERS='$(PEERS)' SCALE='$(SCALE)' exec $(PYTHON) -m bench

where: setup ## where an event is. ARGS="--partition P --offset O" or "--user U --time T"
	@set -a; env="$${TALLY_STACK_HOME:-.tally}/stack.env"; if [ -z "$$TALLY_KAFKA_SERVERS" ] && [ -f "$$env" ]; then \
		case "$$env" in /*) . "$$env" ;; *) . "./$$env" ;; esac; fi; exec $(PYTHON) -m sinks.where $(ARGS)

psql: setup ## a prompt on the running database
	@exec $(PYTHON) -m stack psql

sbom: setup ## the bill of materials, CycloneDX, into FILE= (sbom.json)
	@exec $(PYTHON) -m stack.materials bill '$(or $(FILE),sbom.json)'

audit: setup ## is any locked package known to be vulnerable; asks a service on the internet
	@exec $(PYTHON) -m stack.materials audit

LOCKED := -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock" pyproject.toml

lock: setup-dev ## both lock files anew from pyproject.toml: what runs, and what tests need besides
	@$(PYTHON) $(LOCKED) --group dev -o requirements-dev.lock
	@$(PYTHON) $(LOCKED) --constraint requirements-dev.lock -o requirements.lock

clean: ## remove what these commands created, after asking
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m stack clean; fi && rm -rf .venv
