# `make demo` and `make test` need Python 3.11 or newer, git and a package registry; everything else is set up here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LABEL := .venv-label
LABEL_INSTALLED := $(LABEL)/.installed
STUDY = $(shell $(BIN)/python -c "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('nilearn').origin).parent / 'datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz')")

.PHONY: demo test test-slow lint docs docs-serve clean label-env test-label bundles

demo: $(INSTALLED)
	$(BIN)/python -m monai.bundle run --config_file bundles/segformer3d_brain/configs/inference.json \
		--input $(STUDY) --output_dir out/demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

label-env: $(LABEL_INSTALLED)

test-label: $(LABEL_INSTALLED)
	OMP_NUM_THREADS=1 $(LABEL)/bin/python -m pytest -m 'label and not debian' tests/label

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site goes to out/site; `make docs-serve` shows it while it is written.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict --site-dir out/site

docs-serve: docs
	$(BIN)/python -m mkdocs serve

# torch comes first and by itself, so that nothing pulls another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# MONAI Label comes without its dependencies: they would change numpy and bring packages that cannot be imported.
$(LABEL_INSTALLED): pyproject.toml constraints.txt label-constraints.txt
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --quiet --upgrade pip
	$(LABEL)/bin/python -m pip install --quiet $(shell grep '^torch==' constraints.txt)
	$(LABEL)/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	$(LABEL)/bin/python -m pip install --quiet --no-deps monailabel==0.8.5
	$(LABEL)/bin/python -m pip install --quiet --constraint constraints.txt --requirement label-constraints.txt
	touch $@

bundles: $(INSTALLED)
	$(BIN)/python -m medvit.bundles.write

clean:
	rm -rf $(VENV) $(LABEL) out dist
