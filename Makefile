# `make demo` and `make test` each do all the set-up. PYTHON may name any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: demo test bench check docs setup clean

demo: $(READY)
	$(BIN)/promptkit demo

test: $(READY)
	$(BIN)/python -m pytest

# `make bench QUICK=1` takes three minutes, all of it half an hour.
bench: $(READY)
	$(BIN)/python benchmarks/run.py all $(if $(QUICK),--quick) --out bench.jsonl
	$(BIN)/python benchmarks/table.py bench.jsonl --figure bench.svg

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict --clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt plugins/coop/pyproject.toml plugins/gopro/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than Python 3.11"; echo "hint:  make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	    --editable '.[dev]' --editable plugins/coop --editable plugins/gopro
	@touch $@

clean:
	rm -rf .venv build dist runs site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
