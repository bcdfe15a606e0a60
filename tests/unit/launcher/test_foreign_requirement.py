"""Flat files of other calculators: what is made of a size, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.errors import UsageProblem
from launcher.foreign_requirement import MemoryOnly, read_memory
from launcher.requirement_file import read_any, read_requirement

GIB_OF_28_GB = 28e9 / 2**30


def read(tmp_path: Path, document: object, name: str = "other.json") -> MemoryOnly:
    file = tmp_path / name
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    found = read_any(file)
    assert isinstance(found, MemoryOnly)
    return found


@pytest.mark.parametrize(
    ("document", "gib"),
    [
        ({"min_vram_gb": 28}, GIB_OF_28_GB),
        ({"vram_required_gb": "28GB"}, GIB_OF_28_GB),
        ({"gpu_memory_gb": "28 GiB"}, 28.0),
        ({"required_vram_gb": "12288 MB"}, 12288e6 / 2**30),
        ({"min_vram": "12288 MiB"}, 12.0),
        ({"min_vram": "12,288 MiB"}, 12.0),
        ({"min_vram": "12,5 GiB"}, 12.5),
        ({"min_vram": 28}, GIB_OF_28_GB),
        ({"min_vram_gib": 26.5}, 26.5),
        ({"hardware": {"min_vram_gb": 28, "num_gpus": 2}}, GIB_OF_28_GB),
        ({"requirements": {"Min_VRAM_GB": "28,0 gb"}}, GIB_OF_28_GB),
        ({"estimate": {"min_vram_gb": 28}, "min_vram": "26.08 GiB"}, GIB_OF_28_GB),
    ],
)
def test_sizes(tmp_path: Path, document: object, gib: float) -> None:
    found = read(tmp_path, document)
    assert found.option.min_vram_gib == pytest.approx(gib)
    assert "GiB" in found.understood[0]


def test_yaml_and_what_else_it_says(tmp_path: Path) -> None:
    text = "hardware:\n  min_vram_gb: 28\n  ram_gb: 64\n  disk_gb: 100\n  gpu_count: 2\n  cuda: 12.4\n"
    found = read(tmp_path, text, "other.yaml")
    assert found.option.gpus == 2
    assert found.option.min_ram_gib == pytest.approx(64e9 / 2**30)
    assert found.option.min_disk_gib == pytest.approx(100e9 / 2**30)
    assert found.option.flop_per_step is None
    assert found.warnings == ("other.yaml: hardware.cuda is not known, and is not used.",)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"min_vram_gb": -5}, "min_vram_gb: -5"),
        ({"min_vram_gb": 0}, "cannot be"),
        ({"min_vram_gb": "lots"}, "'lots' is not a size"),
        ({"min_vram_gb": True}, "True is not a size"),
        ({"min_vram_gb": None}, "None is not a size"),
        ({"min_vram": 12288}, 'write "12288 MB"'),
        ({"min_vram_gb": 1e12}, "cannot be"),
        ({"min_vram_gb": 28, "gpu_memory_gb": "28 GiB"}, "contradicts itself"),
        ({"min_vram_gb": 28, "gpus": 0}, "gpus: 0"),
        ({"min_vram_gb": 28, "num_gpus": "many"}, "num_gpus: 'many'"),
        ({"nothing": "of use"}, "not hardware-requirement/1"),
        ([1, 2], "not hardware-requirement/1"),
    ],
)
def test_nonsense_is_named_by_its_key(tmp_path: Path, document: object, says: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        read(tmp_path, document)
    assert says in str(caught.value)


def test_broken_yaml_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="not YAML"):
        read(tmp_path, "a: [", "other.yml")


def test_a_job_wants_the_model_and_the_data(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"min_vram_gb": 28}')
    with pytest.raises(UsageProblem) as caught:
        read_requirement(file)
    assert "--model PATH|ID --train FILE" in caught.value.next_step


def test_a_gpu_that_is_named_is_known_or_an_error(tmp_path: Path) -> None:
    found = read_memory({"min_vram_gb": 28, "gpu": "A100"}, tmp_path / "need.json")
    assert found is not None
    assert found.warnings == ("need.json: gpu A100 is not used, since any GPU with the memory will do; or: --gpu A100",)
    spaced = read_memory({"min_vram_gb": 9, "gpu": "RTX 5070"}, tmp_path / "need.json")
    assert spaced is not None
    assert spaced.warnings[0].endswith("or: --gpu 'RTX 5070'")
    with pytest.raises(UsageProblem, match=r"gpu: 'A1000' is no known GPU \(did you mean A100\?\)\.\n"):
        read_memory({"min_vram_gb": 28, "gpu": "A1000"}, tmp_path / "need.json")
