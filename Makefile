# make ask     sets everything up and answers a question about a photograph
# make test    sets everything up, then checks style and types and runs the tests
# make bench   measures a cold start against `import torch`
# make clean   removes the environment and what the tools left
#
# Change what is asked:  make ask PICTURE=cat.jpg QUESTION="Is this a cat?"
# Choose the Python:     make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
QUESTION ?= What is this?
# scikit-image brings photographs; this one is of a motorcycle.
PICTURE ?= $(shell ls $(VENV)/lib/python3*/site-packages/skimage/data/motorcycle_left.png)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# Torch's threads wait asleep, so that a busy machine does not take several times as long.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: ask test lint bench clean

ask: $(VENV)/.ready-to-ask
	@echo "$(PICTURE): $(QUESTION)"
	@$(BIN)/vlmamba ask "$(PICTURE)" "$(QUESTION)"

test: lint
	$(BIN)/pytest --numprocesses 2

lint: $(VENV)/.ready-to-test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.ready-to-test
	$(BIN)/python bench/cold_start.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-to-ask: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV); this takes a few minutes the first time"
	$(PIP) --editable . scikit-image
	@touch $@

$(VENV)/.ready-to-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV); this takes a few minutes the first time"
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.ready-to-ask
