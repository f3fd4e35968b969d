# `make` lists the targets.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
STAMP_DEMO = $(VENV)/.installed-demo
STAMP = $(VENV)/.installed
STAMP_ALL = $(VENV)/.installed-all
BENCH_VENV = .venv-bench
BENCH_BIN = $(BENCH_VENV)/bin
BENCH_STAMP = $(BENCH_VENV)/.installed

# Further arguments, as in: make test PYTEST_ARGS="-x -k name"
PYTEST_ARGS =
# A process for each core; every one of them holds a PyTorch.
PARALLEL = -n auto --maxprocesses 4 --dist loadfile
BENCH_ARGS =
TORTURE_ARGS =

# A change in one of these makes the next target install again.
DECLARED = pyproject.toml setup.py requirements.txt constraints.txt

# Older pips read the constraints of builds from the first variable, newer ones from the
# second; see constraints.txt. What the caller has set there stays in force.
PIP_INSTALL = PIP_CONSTRAINT="$(strip $(PIP_CONSTRAINT) constraints.txt)" \
	PIP_BUILD_CONSTRAINT="$(strip $(PIP_BUILD_CONSTRAINT) constraints.txt)" \
	PIP_DISABLE_PIP_VERSION_CHECK=1

# $(call make_venv,FOLDER): an environment with pip in it, unless it is there already
make_venv = \
	if ! "$(1)/bin/python" -m pip --version >/dev/null 2>&1; then \
		"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
			echo "make: '$(PYTHON)' is not a Python 3.10 or newer;" \
				"name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
		echo "creating $(1)"; \
		"$(PYTHON)" -m venv "$(1)" || { \
			echo "make: '$(PYTHON) -m venv' failed. On Debian and Ubuntu, install it with" >&2; \
			echo "          sudo apt-get install python3-venv" >&2; \
			echo "      If $(1) was there before, remove it and try again." >&2; exit 1; }; \
	fi

.PHONY: help demo test test-slow test-all torture lint format types docs examples bench build clean distclean

help: ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s  %s\n", $$1, $$2 }' Makefile

$(STAMP_DEMO): $(DECLARED)
	@$(call make_venv,$(VENV))
	@echo "installing into $(VENV); the first time this downloads PyTorch and takes some minutes"
	$(PIP_INSTALL) "$(BIN)/python" -m pip install -e ".[examples]"
	@touch "$@"

$(STAMP): $(STAMP_DEMO)
	@echo "installing what the tests and the documentation need into $(VENV); it takes about a minute"
	$(PIP_INSTALL) "$(BIN)/python" -m pip install -e ".[dev]"
	@touch "$@"

# The services that only slow tests talk to bring many packages along.
$(STAMP_ALL): $(STAMP)
	$(PIP_INSTALL) "$(BIN)/python" -m pip install -e ".[all]"
	@touch "$@"

demo: $(STAMP_DEMO) ## install what it needs into .venv and train on scikit-learn's digits
	"$(BIN)/python" -u examples/digits.py

test: $(STAMP) ## install everything into .venv and run the tests that are not slow
	"$(BIN)/python" -m pytest -m "not slow" $(PARALLEL) $(PYTEST_ARGS)

# pytest's status 5, no test selected, is no failure here.
test-slow: $(STAMP_ALL) ## run the slow tests
	"$(BIN)/python" -m pytest -m slow $(PYTEST_ARGS) || test $$? -eq 5

test-all: $(STAMP_ALL) ## run all tests
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

torture: $(STAMP) ## kill, stop and starve real runs hundreds of times; nothing may be lost
	"$(BIN)/python" -u -m tests.faults.torture $(TORTURE_ARGS)

lint: $(STAMP) ## check style and formatting
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m ruff format --check .

format: $(STAMP) ## repair style and formatting
	"$(BIN)/python" -m ruff check --fix .
	"$(BIN)/python" -m ruff format .

types: $(STAMP) ## check the types
	"$(BIN)/python" -m mypy farabio_like

docs: $(STAMP) ## build the documentation into docs/_build/html
	@command -v dot >/dev/null || { \
		echo "make: the documentation's diagrams need Graphviz's 'dot'. Install it with" >&2; \
		echo "          sudo apt-get install graphviz    (Debian, Ubuntu)" >&2; \
		echo "          brew install graphviz            (macOS)" >&2; exit 1; }
	"$(BIN)/python" -m sphinx -W --keep-going -b html docs docs/_build/html

examples: $(STAMP) ## run every example
	@for script in examples/*.py; do \
		case "$$script" in examples/_*) continue ;; esac; \
		echo; echo "--- $$script"; \
		MPLBACKEND=Agg "$(BIN)/python" -u "$$script" || { \
			echo "make: $$script failed" >&2; exit 1; }; \
	done

$(BENCH_STAMP): $(DECLARED) benchmarks/requirements.txt
	@$(call make_venv,$(BENCH_VENV))
	@echo "installing into $(BENCH_VENV); the first time this downloads PyTorch and takes some minutes"
	$(PIP_INSTALL) "$(BENCH_BIN)/python" -m pip install -e . -r benchmarks/requirements.txt
	@touch "$@"

bench: $(BENCH_STAMP) ## run the benchmark in an environment of its own
	"$(BENCH_BIN)/python" -u benchmarks/overhead.py $(BENCH_ARGS)

build: $(STAMP) ## build the wheel and the source package into dist
	"$(BIN)/python" -m build

clean: ## remove what was built and the caches, not the environments
	rm -rf build dist farabio_like.egg-info docs/_build docs/reference/generated
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -path './.venv*' -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## also remove the environments, and what the browser's test got from npm
	rm -rf .venv .venv-bench .cache
