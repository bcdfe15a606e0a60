# Two targets do everything from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv/bin
TRAIN := .venv-train/bin/python

.PHONY: demo test lint bench demo-model install

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(VENV)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(VENV)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The trainer's environment for tests, made by the code that makes a user's, plus what the tests themselves need.
.venv-train/whole.json: train/locks/cpu.txt .venv/installed
	$(VENV)/python -m jobs.environment --into .venv-train

.venv-train/tests: .venv-train/whole.json
	$(TRAIN) -m pip install --quiet --disable-pip-version-check 'pytest>=9' 'pytest-xdist>=3.8' 'hypothesis>=6.150'
	touch $@

# A sample project, the main job on it with no budget, and what came of it.
demo: install
	sh tests/demo.sh

# A file of tests at a time on each core: a test here trains on one thread.
test: .venv/installed-dev .venv-train/tests
	LAUNCH_TEST_TRAIN_PYTHON="$(CURDIR)/$(TRAIN)" $(VENV)/python -m pytest -n auto --dist loadfile
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)" HF_HUB_OFFLINE=1 $(TRAIN) -m pytest -n auto --dist loadfile tests/train

lint: .venv/installed-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/pyright
	$(VENV)/lint-imports

bench: .venv/installed-dev
	$(VENV)/python tests/bench/command_line.py

# The sample project's Stage-A model, made again from nothing.
demo-model: .venv-train/whole.json
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)" $(TRAIN) tests/demo_model/make_stage_a.py
