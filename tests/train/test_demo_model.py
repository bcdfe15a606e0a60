# pyright: basic
"""The script that made the sample's committed Stage A still makes such a model, and the committed one is what it says.

Training it takes minutes, so no test repeats it. A run of few steps proves that the script works and starts from what
the committed model was started from: tokenizer and configurations come out byte for byte, tensors with the same names
and shapes. Measuring the committed weights again proves that `measured.json` is about them: summaries are sampled with
the script's own seed, from notes that the generator must still write as it did.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.demo_model import make_stage_a

COMMITTED = make_stage_a.OUT
MEASURED = json.loads((COMMITTED / "measured.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes after few steps."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_stage_a, "BASE_STEPS", 12)
        patch.setattr(make_stage_a, "ADAPTER_STEPS", 12)
        patch.setattr(make_stage_a, "TEST_NOTES", 20)
        patch.setattr(sys, "argv", ["make_stage_a.py", "--out", str(folder)])
        make_stage_a.main()
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def shapes(file: Path) -> dict[str, tuple]:
    with safe_open(file, "pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def test_the_script_writes_the_files_that_are_committed_and_the_texts_byte_for_byte(made: Path) -> None:
    assert files(made) == files(COMMITTED)
    weights = {name for name in files(made) if name.endswith(".safetensors")}
    assert len(weights) == 2
    for name in files(made) - weights - {"measured.json"}:
        assert (made / name).read_text() == (COMMITTED / name).read_text(), name
    for name in weights:
        assert shapes(made / name) == shapes(COMMITTED / name), name


def test_what_is_counted_of_a_step_does_not_depend_on_the_training(made: Path) -> None:
    found = json.loads((made / "measured.json").read_text())
    assert found.keys() == MEASURED.keys()
    for name in ("parameters", "flop_per_step", "pairs_per_step", "trainable_parameters"):
        assert found[name] == MEASURED[name], name
    assert found["base_hallucination"] > 0.5, "after twelve steps it knows little"


def test_the_committed_weights_are_those_that_were_measured() -> None:
    base = LlamaForCausalLM.from_pretrained(COMMITTED / "base")
    tokenizer = AutoTokenizer.from_pretrained(COMMITTED / "base")
    near = 3 / MEASURED["notes"]  # other CPUs add up in another order, and a sample may tip
    assert make_stage_a.hallucination(base, tokenizer)[0] == pytest.approx(MEASURED["base_hallucination"], abs=near)
    stage_a = PeftModel.from_pretrained(base, COMMITTED / "adapter")
    wrong, omitted = make_stage_a.hallucination(stage_a, tokenizer)
    assert wrong == pytest.approx(MEASURED["stage_a_hallucination"], abs=near)
    assert omitted == pytest.approx(MEASURED["stage_a_omitted"], abs=near)
