# pyright: basic
"""A base that is named by its hub id: the hub's own client against a hub on loopback, in the trainer's own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from tests.train.conftest import make_base
from tests.train.hub_server import MEMBER, STRANGER, Hub, Repository, files_of, serving
from tests.train.runs import end_of, lines, start
from train.__main__ import QUIET

MISTYPED = "hf_mistyped_token_of_the_tests"
OPEN, GATED, PICKLED = "tests/open-model", "tests/gated-model", "tests/pickled-model"


@pytest.fixture(scope="module")
def hub(models_folder, tmp_path_factory):
    """The Llama of the other tests as `v1`, and other weights as `main`."""
    first = files_of(models_folder / "llama")
    newer = files_of(make_base(tmp_path_factory.mktemp("newer"), seed=5))
    pickled = {("pytorch_model.bin" if name == "model.safetensors" else name): data for name, data in first.items()}
    repositories = {
        OPEN: Repository({"main": newer, "v1": first}),
        GATED: Repository({"main": newer, "v1": first | {"consolidated.safetensors": b"a second copy"}}, gated=True),
        PICKLED: Repository({"main": pickled}),
    }
    with serving(Hub(repositories)) as served:
        yield served


@pytest.fixture
def trainer(hub, tmp_path):
    """Runs `python -m train VERB` on a document, with an empty cache; returns the finished process."""
    hub.requests.clear()

    def run(verb: str, document: dict, *, token: str | None = None, endpoint: str | None = None, **environment: str):
        config = tmp_path / "run.json"
        config.write_text(json.dumps(document))
        unset = {"HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"}
        environ = {name: value for name, value in os.environ.items() if name not in unset} | {
            "HF_ENDPOINT": endpoint or hub.endpoint, "HF_HOME": str(tmp_path / "hub-home"), "OMP_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1", "PYTHONPATH": str(Path(train.__file__).parent.parent),
            **({"HF_TOKEN": token} if token else {}), **environment,
        }  # fmt: skip
        command = [sys.executable, "-m", "train", verb, "--config", str(config)]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)

    return run


def over(document: dict, base: str, revision: str | None = None) -> dict:
    return document | {"model": document["model"] | {"base": base, "base_revision": revision}}


def test_a_gated_base_at_a_revision_trains_as_the_same_folder_does_and_nothing_calls_home(run_document, trainer, hub):
    local = run_document(max_steps=2)
    distant = over(local, GATED, "v1") | {"output_dir": local["output_dir"] + "-hub"}
    done = trainer("dpo", distant, token=MEMBER)
    assert done.returncode == 0, done.stderr
    assert start(local) == 0
    assert [line["loss"] for line in lines(distant, "train")] == [line["loss"] for line in lines(local, "train")]
    for name in ("adapter", "adapter_last", "checkpoints/checkpoint-2"):
        config = json.loads((Path(distant["output_dir"]) / name / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (GATED, "v1")
    assert not [request for request in hub.requests if "telemetry" in request[1]]
    assert not [request for request in hub.requests if "consolidated" in request[1]]
    asked = {path for _, path, _ in hub.requests if not path.startswith(("/api/models/", f"/{GATED}/"))}
    assert asked == set()
    assert MEMBER not in done.stdout + done.stderr + "".join(
        path.read_text() for path in Path(distant["output_dir"]).glob("*.json*")
    )


def test_the_libraries_are_told_not_to_call_home_before_they_are_imported(tmp_path):
    code = (
        "import sys; from train.__main__ import main\n"
        f"assert main(['dpo', '--config', {str(tmp_path / 'none.json')!r}]) == 2\n"
        "assert 'huggingface_hub' not in sys.modules and 'torch' not in sys.modules\n"
        "from huggingface_hub import constants\n"
        "assert constants.HF_HUB_DISABLE_TELEMETRY\n"
    )
    environ = {name: value for name, value in os.environ.items() if name not in QUIET} | {
        "PYTHONPATH": str(Path(train.__file__).parent.parent)
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_open_base_needs_no_token_and_the_check_downloads_no_weights(run_document, trainer, hub):
    done = trainer("check", over(run_document(), OPEN))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "datacheck/1"
    assert f"/{OPEN}/resolve" in " ".join(path for _, path, _ in hub.requests)
    assert not [path for _, path, _ in hub.requests if path.endswith("safetensors")]
    assert not any(with_token for _, _, with_token in hub.requests)


@pytest.mark.parametrize(
    ("verb", "base", "revision", "token", "says"),
    [
        ("dpo", GATED, None, STRANGER, ["gated model", "no access", "accept the licence at {page}", "HF_TOKEN"]),
        ("check", GATED, None, None, ["gated model", "No token was sent", "accept the licence at {page}", "HF_TOKEN"]),
        ("check", GATED, None, STRANGER, ["gated model", "no access", "accept the licence at {page}", "HF_TOKEN"]),
        ("check", GATED, None, MISTYPED, ["does not accept the token", "accept the licence at {page}", "HF_TOKEN"]),
        ("check", "tests/nothing", None, None, ["tests/nothing is no folder here, and no model on the hub", "--base"]),
        (
            "check",
            "tests/nothing",
            None,
            MEMBER,
            ["tests/nothing is no folder here, and no model on the hub", "--base"],
        ),
        ("check", OPEN, "v9", None, ["tests/open-model has no revision 'v9'", "{page}"]),
        ("check", "no such place", None, None, ["There is no folder no such place", "--base"]),
    ],
)
def test_what_the_hub_does_not_give_is_said_with_the_reason_and_the_way_out(
    run_document, trainer, hub, verb, base, revision, token, says
):
    document = over(run_document(), base, revision)
    done = trainer(verb, document, token=token)
    assert done.returncode == 2, done.stderr
    for part in says:
        assert part.format(page=f"{hub.endpoint}/{base}") in done.stderr
    assert "Traceback" not in done.stderr
    assert "Next: " in done.stderr
    said = done.stderr + (json.dumps(end_of(document)) if verb == "dpo" else "")
    assert not [secret for secret in (MEMBER, STRANGER, MISTYPED) if secret in said]


def test_no_network_is_said_as_such(run_document, trainer):
    with serving(Hub()) as gone:
        pass
    done = trainer("check", over(run_document(), OPEN), endpoint=gone.endpoint)
    assert done.returncode == 2, done.stderr
    assert f"The model hub at {gone.endpoint} did not give tests/open-model" in done.stderr
    assert "refused" in done.stderr
    assert "check the network" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_that_came_once_is_used_again_with_no_network(run_document, trainer):
    document = over(run_document(max_steps=1), OPEN, "v1")
    refused = trainer("dpo", document, HF_HUB_OFFLINE="1")
    assert refused.returncode == 2
    assert "HF_HUB_OFFLINE is set" in refused.stderr
    assert trainer("dpo", document).returncode == 0
    again = document | {"output_dir": document["output_dir"] + "-again"}
    assert trainer("dpo", again, HF_HUB_OFFLINE="1").returncode == 0
    assert lines(again, "train")[0]["loss"] == lines(document, "train")[0]["loss"]


def test_a_base_of_another_shape_or_in_torchs_own_format_is_refused_before_training(
    run_document, trainer, hub, tmp_path_factory
):
    done = trainer("dpo", over(run_document(), PICKLED))
    assert done.returncode == 2, done.stderr
    assert "tests/pickled-model has no safetensors weights on the hub" in done.stderr
    hub.repositories["tests/other"] = Repository(
        {"main": files_of(make_base(tmp_path_factory.mktemp("other"), hidden=48))}
    )
    done = trainer("dpo", over(run_document(), "tests/other"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
