PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test lint types tests test-long test-browser docs checkpoint clean

demo: $(STAMP)
	$(BIN)/lens-audio listen

test: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)
	$(BIN)/mypy

tests: $(STAMP)
	$(BIN)/pytest -n 2

# What takes too long for every change: whole corpora, kills, large models.
test-long: $(STAMP)
	$(BIN)/pytest -n 2 -m long

test-browser: $(STAMP)
	$(BIN)/pytest -m browser tests/browser -rs

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

checkpoint: $(STAMP)
	$(BIN)/python -m lens_audio.testbed.train

# The environment is made once and made again when what it is made of has changed.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv build site *.egg-info
