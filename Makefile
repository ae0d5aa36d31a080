# One command per habit; CI runs the same. PYTHON is the environment's interpreter.
PYTHON ?= .venv/bin/python

.PHONY: setup check lint types test slow

setup:
	python3 -m venv .venv
	$(PYTHON) -m pip install -q -e '.[dev]'

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -q -n auto

slow:
	$(PYTHON) -m pytest -q -m slow
