# One command per habit; CI runs the same. PYTHON is the environment's interpreter.
PYTHON ?= .venv/bin/python

.PHONY: setup check lint types test slow docs generated release

setup:
	python3 -m venv .venv
	$(PYTHON) -m pip install -q -e '.[dev]'

check: lint types test docs

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -q -n auto

slow:
	$(PYTHON) -m pytest -q -m slow

# the site, warnings being errors
docs:
	$(PYTHON) -m zensical build --strict

# what README and site take from the program
generated:
	$(PYTHON) -m tests.generated

# make release VERSION=0.2.0: stamps version and changelog, builds wheel and sdist into dist; commit and tag are yours
release:
	$(PYTHON) release.py $(VERSION)
	$(PYTHON) -m tests.generated
	$(PYTHON) -m hatchling build
