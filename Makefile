# `make demo` and `make test` do all their own set-up: Python 3.11+ with pip is all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup native native-sanitized native-aarch64 demo test test-fast test-device test-oldest check format docs clean coverage-of-networks idle-cost training-speed
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, explore, export and run a small network on scenes of digits (five minutes)"
	@echo "make test    the whole test suite, documentation examples included"
	@echo "make test-fast  the rooms whose tests take seconds; under two minutes, for the inner loop"
	@echo "make test-device  bundles of every method in an environment without torch"
	@echo "make test-oldest  the same with the oldest torch that is supported"
	@echo "make native-sanitized  our own kernels with sanitizers, under their tests; minutes"
	@echo "make native-aarch64  our own kernels built for aarch64 and tested under emulation"
	@echo "make check   lint, format and types"
	@echo "make format  mend lint and format where that can be done automatically"
	@echo "make docs    the documentation as HTML, under docs/_build"
	@echo "make coverage-of-networks  convert and check some 180 networks; hours; writes docs/results/coverage.md"
	@echo "make idle-cost  what being dynamic costs in inference; minutes; writes docs/results/idle-cost.md"
	@echo "make training-speed  a step of several passes beside a plain one; half an hour; writes docs/results/training-speed.md"

# The stamp is younger than pyproject.toml only after an installation that went through.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Our own kernels are built where there is a compiler; everything else goes on without them.
NATIVE_SOURCES := native/CMakeLists.txt native/pyproject.toml $(shell find native/cpp native/src -type f)
$(VENV)/native: $(VENV)/installed $(NATIVE_SOURCES)
	@if command -v c++ >/dev/null; then \
	  echo "building our own kernels (a minute)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./native \
	    || echo "our own kernels could not be built: going on without them (engine 'native')"; \
	else echo "no C++ compiler: going on without our own kernels (engine 'native')"; fi
	@touch $@  # tried: again when a source changes, or after make clean

native: $(VENV)/native

setup: $(VENV)/installed $(VENV)/native

demo: setup
	$(BIN)/wenable demo --out out/demo

# A process for each core; the examples of a page share names, so a file stays in one process.
test: setup
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

# The rooms that train nothing and open hardly any engine.
FAST := $(addprefix tests/,core graph images layers measure strategies test_rooms.py)
test-fast: setup
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile $(FAST)

# An environment without torch, as a device has it, with the bundle of the demo.
test-device: setup
	test -f out/demo/net.wen || $(BIN)/wenable demo --out out/demo
	PYTHONPATH=. $(BIN)/python tests/for_a_device.py out/device
	$(PYTHON) -m venv .venv-device
	.venv-device/bin/python -m pip install --quiet --disable-pip-version-check '.[onnxruntime,openvino]'
	.venv-device/bin/python tests/on_a_device.py out/demo/net.wen out/device

# Our own kernels with the address and undefined-behaviour sanitizers, under all their tests; their threads
# with the thread sanitizer.
SANITIZED := tests/runtime/test_native_kernels.py tests/runtime/test_native_networks.py
native-sanitized: export PATH := $(CURDIR)/$(BIN):$(PATH)
native-sanitized: setup
	cmake -S native -B out/native-sanitized -DWENABLE_SANITIZE=ON -DWENABLE_WERROR=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)"
	cmake --build out/native-sanitized --parallel
	mkdir -p out/native-sanitized/site/wenable_native
	cp native/src/wenable_native/*.py out/native-sanitized/_kernels*.so out/native-sanitized/site/wenable_native/
	cmake -S native -B out/native-threads -DWENABLE_SANITIZE_THREADS=ON -DWENABLE_MODULE=OFF -DWENABLE_TESTS=ON -DWENABLE_WERROR=ON
	cmake --build out/native-threads --parallel --target test_threads
	out/native-threads/test_threads
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  PYTHONPATH=out/native-sanitized/site $(BIN)/python -m pytest -q -p no:cacheprovider $(SANITIZED)

# The kernels for aarch64 by a cross compiler, their test programs under user-mode emulation.
native-aarch64: export PATH := $(CURDIR)/$(BIN):$(PATH)
native-aarch64: setup
	cmake -S native -B out/native-aarch64 -DWENABLE_MODULE=OFF -DWENABLE_TESTS=ON -DWENABLE_WERROR=ON \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	cmake --build out/native-aarch64 --parallel
	qemu-aarch64 -L /usr/aarch64-linux-gnu out/native-aarch64/test_kernels
	qemu-aarch64 -L /usr/aarch64-linux-gnu out/native-aarch64/test_threads

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
