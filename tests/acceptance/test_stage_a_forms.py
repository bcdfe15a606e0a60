"""`--model`, `--base` and `--adapter`: the forms in which people have Stage A. A damaged file shows what was read."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.acceptance.program import Program

ADAPTER_WEIGHTS, BASE_WEIGHTS = "adapter_model.safetensors", "model.safetensors"


@pytest.fixture
def forms(small: Program) -> Program:
    """Beside `stage_a/base` and `stage_a/adapter`: `base two`, and `it's both` with base and adapter in one folder."""
    stage_a = small.folder / "stage_a"
    shutil.copytree(stage_a / "base", small.folder / "base two")
    shutil.copytree(stage_a / "base", small.folder / "it's both")
    shutil.copytree(stage_a / "adapter", small.folder / "it's both", dirs_exist_ok=True)
    return small


def damage(file: Path) -> str:
    """Cuts it off, and returns what a message that names it has in it."""
    file.write_bytes(file.read_bytes()[:100])
    return f"/{file.parent.name}/{file.name}: truncated or damaged"


def refusal(program: Program, *words: str) -> str:
    done = program.run(*words)
    assert done.returncode == 2, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "Next: " in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("words", "reads", "leaves"),
    [
        (["--model", "stage_a/adapter"], ["stage_a/adapter", "stage_a/base"], ["base two"]),
        (["--model", "stage_a/adapter", "--base", "base two"], ["stage_a/adapter", "base two"], ["stage_a/base"]),
        (["--model", "base two", "--adapter", "stage_a/adapter"], ["stage_a/adapter", "base two"], ["stage_a/base"]),
        (["--model", "base two"], ["base two"], ["stage_a/base", "stage_a/adapter"]),
    ],
)
def test_a_form_is_read_from_the_folders_that_it_names(
    forms: Program, words: list[str], reads: list[str], leaves: list[str]
) -> None:
    def weights(folder: str) -> Path:
        (file,) = (forms.folder / folder).glob("*.safetensors")
        return file

    for folder in leaves:
        damage(weights(folder))
    forms.good("plan", "dpo", *words)
    for folder in reads:
        kept = weights(folder).read_bytes()
        assert damage(weights(folder)) in refusal(forms, "plan", "dpo", *words)
        weights(folder).write_bytes(kept)


@pytest.mark.parametrize("with_requirement", [True, False])
def test_base_and_adapter_in_one_folder_are_refused_with_what_to_type_for_either(
    forms: Program, *, with_requirement: bool
) -> None:
    typed = ["plan", "dpo"]
    if not with_requirement:
        (forms.folder / "launch.toml").unlink()
        typed += ["--train", "data/train.jsonl"]
    both = forms.folder / "it's both"
    for command in (typed, ["dpo", *typed[2:], "--yes", "--dry-run"]):
        message = refusal(forms, *command, "--model", "it's both")
        assert f"{both} holds full weights and an adapter, which can be read two ways" in message
    remedies = re.search(r"^Next: (.+) if it is still to be applied; (.+) if it is merged\.$", message, re.MULTILINE)
    assert remedies is not None, message
    applied, merged = map(shlex.split, remedies.groups())
    if with_requirement:  # else each is an estimate, which takes its time
        forms.good(*typed, *applied)
    damaged = damage(both / ADAPTER_WEIGHTS)
    assert damaged in refusal(forms, *typed, *applied)
    if with_requirement:
        forms.good(*typed, *merged)
    damaged = damage(both / BASE_WEIGHTS)
    assert damaged in refusal(forms, *typed, *merged)


def test_flags_say_what_the_requirement_file_does_not(forms: Program) -> None:
    """One folder named as both, as by a team that saved its base and its adapter there."""
    shutil.rmtree(forms.folder / "stage_a")
    run = ["dpo", "--yes", "--dry-run"]
    forms.good(*run, "--base", "it's both", "--adapter", "it's both")
    damaged = damage(forms.folder / "it's both" / ADAPTER_WEIGHTS)
    assert damaged in refusal(forms, *run, "--base", "it's both", "--adapter", "it's both")
    damaged = damage(forms.folder / "it's both" / BASE_WEIGHTS)
    assert damaged in refusal(forms, *run, "--base", "it's both", "--adapter", "none")
    assert "would be a second model" in refusal(forms, *run, "--model", "base two", "--base", "it's both")
