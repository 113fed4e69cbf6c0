# Needs Python 3.11 or newer, pip and make; every target does its own set-up in .venv.

PYTHON ?= python3
TORCH ?= torch==2.13.0
# An exact version: on most indexes a looser requirement brings gigabytes of CUDA libraries along.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
DEMO := demo

.PHONY: help install demo test check bench bench-gpu format clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## Make .venv and install vaeseg

demo: $(STAMP)  ## Write a small phantom archive, segment it, show the findings
	@echo "== writing a phantom archive of 3 patients to $(DEMO)/archive"
	rm -rf $(DEMO)
	$(BIN)/vaeseg-batch phantom $(DEMO)/archive --patients 3 --layout dicom --seed 7 --image-size 256 --z-extent-mm 120
	@echo "== segmenting it on a local Ray"
	$(BIN)/vaeseg-batch submit --study-dir $(DEMO)/archive/dicom --label-dir $(DEMO)/archive/labels \
		--store $(DEMO)/store --output-type nifti,png
	@echo "== findings"
	$(BIN)/vaeseg-batch findings --store $(DEMO)/store --order-by tumour_volume_ml
	@echo "== masks and previews are in $(DEMO)/store/masks"

test: $(TEST_STAMP)  ## Run the test suite, without its long forms
	@echo "== running the tests"
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

check: $(TEST_STAMP)  ## Run ruff, strict mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(TEST_STAMP)  ## Measure vaeseg beside its peers, on a machine that does nothing else
	$(BIN)/python benchmarks/bench.py

bench-gpu: $(STAMP)  ## Measure engine and training on a CUDA device
	$(BIN)/python benchmarks/bench_gpu.py

format: $(TEST_STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv and what demo wrote
	rm -rf $(VENV) $(DEMO)

$(BIN)/python:
	@echo "== making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=..." % sys.version_info[:2] if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	@echo "== installing $(TORCH), then vaeseg"
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(TEST_STAMP): $(STAMP)
	@echo "== installing the test extras"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@
