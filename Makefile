# Two targets do everything from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv/bin
TRAIN := .venv-train/bin/python

.PHONY: demo test test-cloud test-cloud-all lint bench bench-train demo-model install

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
	@sh tests/programs.sh sshd:openssh-server ssh:openssh-client rsync:rsync
	LAUNCH_TEST_TRAIN_PYTHON="$(CURDIR)/$(TRAIN)" $(VENV)/python -m pytest -n auto --dist loadfile
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)" HF_HUB_OFFLINE=1 $(TRAIN) -m pytest -n auto --dist loadfile tests/train

# The fake clouds, Lambda and AWS: instances as namespaces with real sshd and cloud-init, real SkyPilot. `test` does not
# collect them: they need root, and minutes. What is missing is installed from Debian; the machine image is made once (see rootfs.py).
CLOUD_TESTS := tests/acceptance/lambda_cloud tests/acceptance/aws_cloud
CLOUD_PROGRAMS := debootstrap:debootstrap ip:iproute2 sshd:openssh-server ssh:openssh-client rsync:rsync podman:podman \
	runc:runc

test-cloud: WHICH := -m 'not full'
test-cloud-all: WHICH :=
test-cloud test-cloud-all:
	@if [ "$$(id -u)" != 0 ]; then echo "The fake cloud needs root (namespaces, overlay mounts): skipped."; else \
	  $(MAKE) --no-print-directory run-test-cloud WHICH="$(WHICH)"; fi

.PHONY: run-test-cloud
run-test-cloud: .venv/installed-dev .venv-train/tests
	@sh tests/programs.sh $(CLOUD_PROGRAMS)
	$(VENV)/python -m tests.acceptance.lambda_cloud.rootfs
	LAUNCH_TEST_TRAIN_PYTHON="$(CURDIR)/$(TRAIN)" $(VENV)/python -m pytest -n 2 --dist worksteal $(CLOUD_TESTS) $(WHICH)

lint: .venv/installed-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/pyright
	$(VENV)/lint-imports

bench: .venv/installed-dev
	$(VENV)/python tests/bench/command_line.py

# Seconds a pair and memory of a DPO step on this CPU, some minutes: into tests/bench/results/train_cpu.json.
bench-train: .venv-train/whole.json
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)" HF_HUB_OFFLINE=1 $(TRAIN) tests/bench/train_speed.py

# The sample project's Stage-A model, made again from nothing.
demo-model: .venv-train/whole.json
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)" $(TRAIN) tests/demo_model/make_stage_a.py
