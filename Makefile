# make demo    set up, then train a growing network on Fashion-MNIST and show what happened
# make test    set up, then lint, type-check and run the test suite, without what takes longest
# make test-slow         that: brokers away for long, killed sinks, rights, the light installation
# make kafka   start Apache Kafka and a schema registry on this machine (BROKERS=3 for three), print their addresses
# make kafka-down        stop them
# make test-containers   the log's contract and a broker's kill in Docker
# make test-all          make test and test-slow, then both in Docker
# make setup   only set up: .venv, and Fashion-MNIST in a cache folder
# make bench   measure what Esper costs
# make bench-kafka  measure it on Kafka: ESPER_LOG's, else a broker started for it
# make bench-sql    measure SQL: the sink, telemetry, 50 million rows, making the tables anew (needs 5 GB of disk)
# make bench-integrity  flip 10,000 bits in a home and see whether any stays unseen (half an hour)
# make lint    ruff, mypy, the arrows between packages and the check of the schemas' changes only
# make schemas record changed schemas, and a log that they wrote, before they are committed
# make clean   remove what the above made, but no run (.esper) and no data
#
# Variables: TASK=digits (demo without Fashion-MNIST), PYTHON=python3.12 (makes .venv),
#            TORCH_INDEX=URL (where torch comes from, for a build without CUDA), TESTS="tests/unit -k fold",
#            SIDE_BY_SIDE=0 (test one file after another, as where a test's output is to be seen at once)

PYTHON ?= python3
TORCH_INDEX ?=
TASK ?= fashion-mnist
TESTS ?=
BROKERS ?=
SIDE_BY_SIDE ?= 2
BIN := .venv/bin
# A file stays on one process, with its brokers and fixtures; the slow files begin with c and come first.
PYTEST := $(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder --durations 15
CONTAINED := tests/integration/test_log_contract.py tests/chaos/test_outages.py \
	-k "kafka or killed_in_the_middle"

# The tests start many processes that import torch, which takes three times as long where nothing compiled is kept.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup data demo test test-slow container-image test-containers test-all kafka kafka-down lint schemas bench bench-kafka bench-sql bench-integrity clean

help:
	@sed -n 's/^# make /make /p' Makefile

setup: .venv/complete data

.venv/complete: pyproject.toml constraints.txt tools/environment.sh
	@PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' tools/environment.sh

data:
	@tools/fashion-mnist.sh

demo: .venv/complete $(if $(filter fashion-mnist,$(TASK)),data)
	@echo "demo: training a growing network on $(TASK); usually 1 to 2 minutes on 2 cores"
	@$(BIN)/esper train --task $(TASK)

lint: .venv/complete
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo >/dev/null || PYTHONPATH=. $(BIN)/lint-imports --no-logo
	@$(BIN)/esper schemas check

schemas: .venv/complete
	@PYTHONPATH=. $(BIN)/python tools/record_schemas.py

# Without Fashion-MNIST the suite says which tests it left out.
test: .venv/complete lint
	@tools/fashion-mnist.sh || echo "test: going on without Fashion-MNIST"
	@echo "test: running the suite; usually some 15 minutes on 2 cores"
	@$(PYTEST) -m "not slow" $(TESTS)

test-slow: .venv/complete
	@echo "test-slow: running the longest tests; usually some 15 minutes on 2 cores"
	@$(PYTEST) -m slow $(TESTS)

# apache/kafka, or an image built here; not within a test, whose time is limited.
container-image: .venv/complete
	@$(BIN)/python -c 'from tests.support.services.containers import images; print("image:", images().broker)'

test-containers: .venv/complete container-image
	@ESPER_TEST_BROKER=docker $(BIN)/python -m pytest $(CONTAINED)

test-all: test test-slow container-image
	@ESPER_TEST_BROKER=docker $(PYTEST) $(TESTS)

kafka: .venv/complete
	@$(BIN)/esper dev up $(if $(BROKERS),--brokers $(BROKERS))

kafka-down: .venv/complete
	@$(BIN)/esper dev down

bench: .venv/complete data
	@echo "bench: measuring; usually 10 to 15 minutes on an idle machine"
	@$(BIN)/python -m benchmarks

bench-kafka: .venv/complete data
	@echo "bench-kafka: measuring; usually 5 to 10 minutes on an idle machine"
	@$(BIN)/python -m benchmarks kafka training_on_kafka decisions

bench-sql: .venv/complete data
	@echo "bench-sql: measuring; usually 10 to 15 minutes on an idle machine"
	@$(BIN)/python -m benchmarks sink recording questions rebuild

bench-integrity: .venv/complete
	@PYTHONPATH=. $(BIN)/python -m benchmarks integrity

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
