# One command per habit; CI runs the same. PYTHON is the environment's interpreter.
PYTHON ?= .venv/bin/python
VERSIONS ?= 3.12 3.13

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

# minutes to an hour; with SSLZOO_CIFAR10=FOLDER of Parquet files it also learns on real pictures
slow:
	$(PYTHON) -m pytest -q -m slow
	for version in $(VERSIONS); do \
		python$$version -m venv .venv-$$version && .venv-$$version/bin/pip install -q -e '.[dev]' \
		&& .venv-$$version/bin/python -m pytest -q -n auto || exit 1; \
	done
