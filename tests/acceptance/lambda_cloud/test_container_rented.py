"""The `run:` of sky/dpo.yaml on a rented machine with Podman and the trainer's image: the host's Python trains nothing.

A machine here is namespaces in namespaces of this one. What that takes of Podman stands in the machine's own
configuration (podman.py): crun without control groups, since there are none to give; an ext4 folder under its store,
since overlay does not go on overlay; limits below those of this machine. The line itself is the one of every host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import pull
from jobs.image import default_tag
from tests.acceptance.lambda_cloud import stock_sky
from tests.acceptance.lambda_cloud.cloud import Cloud, cannot_run
from tests.acceptance.lambda_cloud.podman import Podman
from tests.acceptance.lambda_cloud.renter import LIMIT_S, LINE, agrees_with_the_meter, driver_log, make_renter
from tests.acceptance.processes import end_all, steps_done
from tests.acceptance.program import Program
from tests.acceptance.waiting import until
from train.cores import cores

IN_A_CONTAINER = tuple(word for word in LINE if word != "--no-container")


@pytest.fixture(scope="module")
def cloud_with_podman(podman: Podman) -> Iterator[Cloud]:
    if why := cannot_run() or stock_sky.cannot_run():
        pytest.skip(why)
    with Cloud(podman.for_machines()) as made:
        yield made


@pytest.fixture
def owner(cloud_with_podman: Cloud, tmp_path: Path, demo_project: Path, warm_state: Path) -> Iterator[Program]:
    """Who rents there, and names the image that `launch image build` made."""
    cloud_with_podman.reset()
    made = make_renter(cloud_with_podman, tmp_path, demo_project, warm_state)
    yield replace(made, environ={**made.environ, "LAUNCH_IMAGE": default_tag("cpu")})
    cloud_with_podman.reset()
    end_all(tmp_path)


def adapter_of(results: Path) -> str:
    return hashlib.sha256((results / "adapter_last/adapter_model.safetensors").read_bytes()).hexdigest()


def test_the_same_line_trains_in_a_container_of_the_host(owner: Program, cloud_with_podman: Cloud) -> None:
    done = owner.run(*IN_A_CONTAINER, timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr + driver_log(owner)
    row = owner.job("dpo-1")
    assert (row["outcome"], row["cloud"], row["step"]) == ("succeeded", "lambda", 12)
    results = Path(row["results"])
    said = (results / "logs/run.log").read_text()
    assert f"sudo -n podman runs the trainer in {default_tag('cpu')}" in said
    assert "making the trainer's environment" not in said  # the image's own pins are those of the lock
    assert pull.results_are_whole(results)
    assert (results / "eval.json").is_file()
    agrees_with_the_meter(owner, cloud_with_podman)

    # In the container no test's environment says one thread: it trains on all cores, and in rounding those count.
    as_there = replace(owner, environ={**owner.environ, "OMP_NUM_THREADS": str(cores())})
    here = as_there.good("dpo", "--yes", "--max-steps", "12")
    assert "dpo-2 succeeded" in here.stderr
    assert adapter_of(results) == adapter_of(Path(owner.job("dpo-2")["results"]))


@pytest.mark.full
def test_what_is_cancelled_there_ends_well_and_saw_no_key(owner: Program, cloud_with_podman: Cloud) -> None:
    owner.good(*IN_A_CONTAINER, "--epochs", "400", "--max-steps", "4000", "--detach")
    until(lambda: steps_done(owner) >= 2, "the first steps", seconds=LIMIT_S, poll_s=0.5)
    (rented,) = cloud_with_podman.provider.everything()
    machine = cloud_with_podman.machine(rented.name)
    seen = machine.run(["sh", "-ec", "cd /; podman inspect launch-dpo-1; podman exec launch-dpo-1 env"])
    assert cloud_with_podman.key not in seen
    assert "LAMBDA" not in seen
    asked = ["sh", "-ec", "cd /; podman inspect --format '{{range .Mounts}}{{.Source}} {{end}}' launch-dpo-1"]
    folder = "/home/ubuntu/launch"
    assert set(machine.run(asked).split()) == {
        f"{folder}/jobs/dpo-1", f"{folder}/jobs/dpo-1/inputs", f"{folder}/jobs/dpo-1/trainer",
        f"{folder}/environments", f"{folder}/hub",
    }  # fmt: skip
    owner.run("cancel", "dpo-1", timeout_s=LIMIT_S)
    row = owner.job("dpo-1")
    assert (row["state"], row["outcome"]) == ("done", "cancelled")
    assert json.loads((Path(row["results"]) / "end.json").read_text())["reason"] == "signal"
    assert (Path(row["results"]) / "checkpoint").is_dir()
    agrees_with_the_meter(owner, cloud_with_podman)
