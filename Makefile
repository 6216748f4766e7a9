# make train   install, train on the digits, print the accuracy
# make test    install, check style and types, run all tests
# make docs    install, build the documentation site in site/
# make dist    build the sdist and the wheel in dist/, and check them
# Options: PYTHON=python3.12 chooses the interpreter, VENV=folder the environment.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# Tests run side by side, each worker with eight devices of its own; who is done takes from others.
PYTEST = $(VENV)/bin/python -m pytest -n auto --maxprocesses=4 --dist=worksteal --durations=10

.PHONY: setup train test test-core lint docs dist clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try make PYTHON=python3.12."; exit 1; }
	@echo "Installing into $(VENV) (about 1.2 GB, some minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-tensorflow.txt
	@$(PIP) install -r requirements-dev.txt -c constraints.txt
	@touch $@

train: setup
	@$(VENV)/bin/python main.py --config=configs/s2mlp_digits.py --workdir=runs/s2mlp_digits

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(PYTEST)

test-core: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

$(VENV)/.installed-docs: requirements-docs.txt constraints.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -r requirements-docs.txt -c constraints.txt
	@touch $@

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet
	@echo "The site is in site/. To read and search it: $(VENV)/bin/python -m http.server -d site"

dist:
	@$(PYTHON) -m venv $(VENV)-dist
	@$(VENV)-dist/bin/python -m pip --disable-pip-version-check --quiet install build twine
	rm -rf dist build
	@$(VENV)-dist/bin/python -m build
	$(VENV)-dist/bin/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) $(VENV)-dist build dist site .mypy_cache .pytest_cache .ruff_cache
