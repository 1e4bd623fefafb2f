# Everything a clone needs; `make help` lists it. Only make and Python 3.11 or newer are assumed.

VENV := .venv
BIN := $(VENV)/bin
# Parallel test processes. Each one imports JAX, so more than there are processors does not pay.
JOBS ?= 2
# Flags for the demo, as in: make demo FLAGS=--quick
FLAGS ?=
# Tried in this order, after $(PYTHON) if that is set.
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3 python

# What the other backends' environments hold beside sentei. The versions are exact: a looser demand
# lets pip choose builds for graphics cards, which are gigabytes.
BACKEND_tensorflow := tensorflow-cpu==2.21.0
BACKEND_torch := torch==2.13.0
# The benchmarks train on PyTorch and code with numba; in pure Python they would take hours.
BACKEND_bench := torch==2.13.0 'numba>=0.61'

PYTEST = MPLBACKEND=Agg $(1)/bin/python -m pytest -q -n $(JOBS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-tensorflow test-torch doctest lint format benchmarks \
	check clean distclean

help:  ## list these targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| while IFS="$$(printf '\t')" read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.installed  ## make .venv and install sentei into it, with the tools

demo: setup  ## prune a small network on real images, export it, measure the files
	@$(BIN)/sentei demo $(FLAGS)

test: setup  ## the fast tests, on JAX
	KERAS_BACKEND=jax $(call PYTEST,$(VENV)) -m "not slow"

test-slow: setup  ## the slow tests, on JAX
	KERAS_BACKEND=jax $(call PYTEST,$(VENV)) -m slow

test-tensorflow: $(VENV)-tensorflow/.installed  ## the core tests, on TensorFlow
	KERAS_BACKEND=tensorflow $(call PYTEST,$(VENV)-tensorflow) -m core
	@# Layers that Keras makes only where TensorFlow is installed, whatever the backend.
	KERAS_BACKEND=jax $(call PYTEST,$(VENV)-tensorflow) tests/litert/test_layers.py -k "Hash or Lookup"

test-torch: $(VENV)-torch/.installed  ## the core tests, on PyTorch
	KERAS_BACKEND=torch $(call PYTEST,$(VENV)-torch) -m core

doctest: setup  ## the examples in docstrings
	KERAS_BACKEND=jax MPLBACKEND=Agg $(BIN)/python -m pytest -q --doctest-modules src/sentei

lint: setup  ## style, types and the rules about who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## rewrite the sources in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(VENV)-bench/.installed  ## measure everything under benchmarks/ anew (long)
	@for script in benchmarks/*.py; do \
		grep -q __main__ $$script || continue; \
		echo "$$script"; $(VENV)-bench/bin/python $$script || exit 1; done

check:  ## all that must hold before a change lands (long)
	.ci/run

clean:  ## remove caches and built packages
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the environments as well
	rm -rf $(VENV) $(VENV)-tensorflow $(VENV)-torch $(VENV)-bench

# -- environments ---------------------------------------------------------------------------------

$(VENV)/.installed: pyproject.toml
	@$(call CREATE,$(VENV))
	@$(call INSTALL,$(VENV),-e '.[dev]')
	@touch $@

$(VENV)-%/.installed: pyproject.toml
	@$(call CREATE,$(VENV)-$*)
	@$(call INSTALL,$(VENV)-$*,-e '.[test]' $(BACKEND_$*))
	@touch $@

OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# Makes an environment, unless there is one that works.
define CREATE
if ! $(1)/bin/python -c '$(OLD_ENOUGH)' 2>/dev/null; then \
	python=; for candidate in $(PYTHON) $(CANDIDATES); do \
		$$candidate -c '$(OLD_ENOUGH)' 2>/dev/null && python=$$candidate && break; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.11 or newer was found (tried: $(PYTHON) $(CANDIDATES))." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "$$python has no venv module. Install it (Debian: apt-get install python3-venv)." >&2; \
		exit 1; \
	fi; \
	echo "Making $(1) with $$($$python --version)"; \
	$$python -m venv --clear $(1); \
fi
endef

define INSTALL
echo "Installing sentei into $(1) (a few minutes where nothing is cached)"; \
$(1)/bin/python -m pip install --disable-pip-version-check $(2)
endef
