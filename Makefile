# `make demo` and `make test` each do all the set-up. PYTHON may name any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: demo test bench check docs setup clean

demo: $(READY)
	$(BIN)/python examples/pictures.py runs/demo/pictures
	$(BIN)/promptkit train gopro --data runs/demo/pictures --domains photo --backbone tiny --weights none \
	    --shots 8 --epochs 5 --batch-size 8 --seed 1 --out runs/demo/gopro --force
	$(BIN)/promptkit train zeroshot --data runs/demo/pictures --domains photo --backbone tiny --weights none \
	    --out runs/demo/zeroshot --force
	$(BIN)/promptkit eval runs/demo/gopro runs/demo/zeroshot --data runs/demo/pictures

test: $(READY)
	$(BIN)/python -m pytest

bench: $(READY)
	$(BIN)/python benchmarks/run.py all

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

setup: $(READY)

$(READY): pyproject.toml constraints.txt plugins/coop/pyproject.toml plugins/gopro/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than Python 3.11"; echo "hint:  make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	    --editable '.[dev]' --editable plugins/coop --editable plugins/gopro
	@touch $@

clean:
	rm -rf .venv build dist runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
