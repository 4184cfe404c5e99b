# Everything sets itself up: a fresh clone needs Python >= 3.10 and a C++17 compiler, no more.
#
#   make demo          prune a small trained network, prove it, run it
#   make test          native tests and pytest against the installed wheel (without the slow ones)
#   make lint          ruff, mypy --strict, import and include directions
#   make bench         the measurements behind what the README says
#   make test-native   the C++ tests, and the library in Python, under AddressSanitizer and UBSan
#   make fuzz          property tests with new random seeds, FUZZ_SECONDS=600
#   make clean         remove what was built (the environment too)
#
# PYTHON=python3.12 chooses the interpreter, VENV=folder the environment, JOBS=n how many
# compilers and test processes run at once.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
FUZZ_SECONDS ?= 600
NATIVE_BUILD ?= build/native-tests
BENCH_OUT ?= build/bench

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LINTERS := $(VENV)/.linters
SOURCES := pyproject.toml $(wildcard README.md) tools/install.py $(shell find onnxprune passes runtime_ext \
	-type f -not -name '*.pyc' -not -path '*/.*')

NATIVE_TESTS = $(BIN)/python tools/native_tests.py --build $(NATIVE_BUILD) --jobs $(JOBS)

# Not after a failed native build: the next make then tries again.
REMEMBER = test -f $(VENV)/native-build-failed.txt || touch $@

# The tests must see the installed package and no other.
unexport PYTHONPATH
export CMAKE_BUILD_PARALLEL_LEVEL = $(JOBS)

.PHONY: demo test lint bench test-native fuzz clean install
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): $(SOURCES)
	@$(PYTHON) tools/install.py $(VENV)
	@$(REMEMBER)

$(LINTERS): $(INSTALLED) pyproject.toml
	@$(PYTHON) tools/install.py $(VENV) --extras test,lint
	@$(REMEMBER)

demo: $(INSTALLED)
	@$(BIN)/python tools/demo.py

# The native tests come first so that pytest's closing line is the last one; either failing fails.
test: $(INSTALLED)
	@status=0; \
	$(NATIVE_TESTS) || status=1; \
	$(BIN)/pytest -n $(JOBS) -m "not slow" || status=1; \
	if test -f $(VENV)/native-build-failed.txt; then cat $(VENV)/native-build-failed.txt; fi; \
	exit $$status

test-native: $(INSTALLED)
	@$(NATIVE_TESTS)

lint: $(LINTERS)
	@$(BIN)/python tools/lint.py

bench: $(INSTALLED)
	@$(BIN)/python tools/bench.py --out $(BENCH_OUT)

fuzz: $(INSTALLED)
	@$(BIN)/python tools/fuzz.py --seconds $(FUZZ_SECONDS)

clean:
	if test -x $(BIN)/pip; then rm -rf $(VENV); fi
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
