"""The table of GPUs: names as catalogues and drivers give them, and rates by data sheet."""

from __future__ import annotations

import pytest

from jobs import gpus


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("A100", "A100"),
        ("A100-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA GeForce RTX 5070", "RTX 5070"),
        ("rtx5070", "RTX 5070"),
        ("h100-pcie", "H100-PCIe"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("RTX A6000", "A6000"),
    ],
)
def test_names(called: str, name: str) -> None:
    found = gpus.find(called)
    assert found is not None
    assert found.name == name


def test_an_unknown_name_is_none_and_the_nearest_is_named() -> None:
    assert gpus.find("A1000") is None
    assert gpus.nearest("RTX 5071") == "RTX 5070"
    assert gpus.nearest("zzzzzz") is None


def test_no_two_gpus_share_a_name() -> None:
    for gpu in gpus.TABLE:
        for name in (gpu.name, *gpu.aliases):
            assert gpus.find(name) is gpu


def test_volta_and_turing_have_no_bf16_and_are_rated_in_fp16() -> None:
    for gpu in gpus.TABLE:
        assert (gpu.bf16_tflops is None) == (gpu.compute_capability < (8, 0))
        rate = gpus.rate_of(gpu, "fp16" if gpu.bf16_tflops is None else "bf16")
        assert rate.flop_per_s == pytest.approx(gpu.fp16_tflops * 1e12 * gpus.EFFICIENCY)
        assert gpu.source in rate.basis
        assert "assumed" in rate.basis


def test_p3_is_retired_and_what_replaces_it_is_said() -> None:
    for name in ("p3.2xlarge", "p3.16xlarge", "p3dn.24xlarge"):
        assert "g6e.xlarge" in (gpus.retired(name) or "")
    assert gpus.retired("p4d.24xlarge") is None
    assert gpus.retired("gpu_1x_a100") is None
    v100, a100 = gpus.find("V100"), gpus.find("A100")
    assert v100 is not None
    assert a100 is not None
    assert gpus.retired_with(v100) == gpus.retired("p3.2xlarge")
    assert gpus.retired_with(a100) is None
