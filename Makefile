# One command per habit; CI runs the same. PYTHON is the environment's interpreter.
PYTHON ?= .venv/bin/python
VERSIONS ?= 3.12 3.13

.PHONY: setup check lint types test slow docs generated release gpu-zoo

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

# minutes to an hour; with SSLZOO_CIFAR10=FOLDER of Parquet files it also learns on real pictures
slow:
	$(PYTHON) -m pip install -q -e '.[dev,int8]'
	$(PYTHON) -m pytest -q -m slow
	$(PYTHON) -m pytest -q tests/test_int8.py
	for version in $(VERSIONS); do \
		python$$version -m venv .venv-$$version && .venv-$$version/bin/pip install -q -e '.[dev]' \
		&& .venv-$$version/bin/python -m pytest -q -n auto || exit 1; \
	done

# the site, warnings being errors
docs:
	$(PYTHON) -m zensical build --strict

# what README and site take from the program
generated:
	$(PYTHON) -m tests.generated

# make gpu-zoo CIFAR10=FOLDER TINYIMAGENET=FOLDER [IMAGENETTE=FOLDER]: every encoder that wants a GPU. Without `exec` a SIGTERM
# would end the shell and leave Python; a rehearsal (ARGS='--set epochs=1 -o FOLDER') wants a folder of its own. Where a command
# may run for nine minutes only: ARGS='--minutes 9', again and again. For a loop call `python -m training.gpu_zoo` itself, which
# ends with 75 where there is more to do and with 1 where a run has failed; make turns both into 2
gpu-zoo:
	exec $(PYTHON) -m training.gpu_zoo --cifar10 '$(CIFAR10)' --tinyimagenet '$(TINYIMAGENET)' \
		$(if $(IMAGENETTE),--imagenette '$(IMAGENETTE)') --minutes inf $(ARGS)

# make release VERSION=0.2.0, in a clean checkout: stamps version and changelog, builds wheel and sdist into an empty dist; commit
# and tag are yours. If the build fails, the same command goes on.
release:
	$(PYTHON) release.py $(VERSION)
	$(PYTHON) -m tests.generated
	rm -rf dist
	$(PYTHON) -m hatchling build
