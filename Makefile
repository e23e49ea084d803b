# make demo · make test · make check · make docs · make bench · make gpu: each works on a fresh clone. The virtual environment is made once, in .venv.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin

# Byte code is kept, whatever the environment says: the next process, and the next run, compiles nothing again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check docs bench gpu clean

demo: $(VENV)/.demo
	$(BIN)/python recipes/compare.py --output_dir runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages as a site in build/site, with the API from the docstrings; strict: a link that leads nowhere is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m mkdocs build --quiet

bench: $(VENV)/.dev
	$(BIN)/python scripts/bench_white_box.py

# On a machine with a CUDA device: what must hold there, then docs/reference/benchmarks_gpu.md (beside TRL and Liger).
gpu: $(VENV)/.gpu
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python scripts/bench_gpu.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# $(VENV)/.EXTRA stands for: this checkout is installed with that extra, in the versions of constraints.txt
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing distill[$*] into $(VENV) (once; about 2 minutes)."
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "distill needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || echo none)." \
		"Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
