# `make demo` and `make test` do all their own set-up: Python 3.11+ with pip is all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-device test-oldest check format docs clean coverage-of-networks idle-cost training-speed
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, explore, export and run a small network on scenes of digits (three minutes)"
	@echo "make test    the whole test suite, documentation examples included"
	@echo "make test-device  a bundle in an environment without torch"
	@echo "make test-oldest  the same with the oldest torch that is supported"
	@echo "make check   lint, format and types"
	@echo "make format  mend lint and format where that can be done automatically"
	@echo "make docs    the documentation as HTML, under docs/_build"
	@echo "make coverage-of-networks  convert and check some 180 networks; hours; writes docs/coverage.md"
	@echo "make idle-cost  what being dynamic costs in inference; minutes; writes docs/idle-cost.md"
	@echo "make training-speed  a step of several passes beside a plain one; half an hour; writes docs/training-speed.md"

# The stamp is younger than pyproject.toml only after an installation that went through.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

setup: $(VENV)/installed

demo: setup
	$(BIN)/wenable demo --out out/demo

# A process for each core; the examples of a page share names, so a file stays in one process.
test: setup
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

# An environment without torch, as a device has it, with the bundle of the demo.
test-device: setup
	test -f out/demo/net.wen || $(BIN)/wenable demo --out out/demo
	$(PYTHON) -m venv .venv-device
	.venv-device/bin/python -m pip install --quiet --disable-pip-version-check '.[onnxruntime,openvino]'
	.venv-device/bin/python tests/on_a_device.py out/demo/net.wen

# The oldest torch that is supported, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet torch==2.9.1 torchvision==0.24.1 --editable '.[dev]'
	.venv-oldest/bin/python -m pytest -q

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

coverage-of-networks: setup
	$(BIN)/python -m benchmarks.coverage

idle-cost: setup
	$(BIN)/python -m benchmarks.idle_cost

training-speed: setup
	$(BIN)/python -m benchmarks.training_speed

clean:
	rm -rf $(VENV) .venv-device .venv-oldest out docs/_build .pytest_cache .ruff_cache .hypothesis
