"""Every GPU of the table has pins that have kernels for it, and the task's own images are those of the table."""

import re

import pytest
import yaml

from jobs.cloud_task import sky_data
from jobs.gpus import OLDEST, TABLE
from jobs.pins import CPU, CUDA, PLATFORMS, VOLTA, pins_for
from jobs.trainer_copy import lock_file

DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")


@pytest.mark.parametrize("gpu", TABLE, ids=lambda gpu: gpu.name)
def test_a_gpu_gets_pins_that_know_it(gpu) -> None:
    pins = pins_for(gpu.name)
    assert pins.oldest is not None
    assert pins.oldest <= gpu.compute_capability


def test_volta_and_blackwell_are_both_served() -> None:
    assert pins_for("V100") is VOLTA
    assert pins_for("Tesla V100-SXM2-32GB") is VOLTA
    assert [pins_for(name) for name in ("T4", "A100", "RTX 5070", "B200")] == [CUDA] * 4
    assert pins_for("a GPU of next year") is CUDA
    assert pins_for(None) is CPU
    assert VOLTA.oldest == OLDEST


def test_each_platform_has_its_lock_and_gpu_images_are_pinned_by_digest() -> None:
    for name, pins in PLATFORMS.items():
        assert pins.platform == name
        assert lock_file(name).is_file()
        if pins.oldest:
            assert DIGEST.fullmatch(pins.image or "")
            assert DIGEST.fullmatch(pins.base)


def test_the_task_names_the_same_images() -> None:
    envs = yaml.safe_load(sky_data("dpo.yaml").read_text())["envs"]
    assert (envs["LAUNCH_IMAGE"], envs["LAUNCH_IMAGE_CUDA12"]) == (CUDA.image, VOLTA.image)
    text = sky_data("dpo.yaml").read_text()
    assert str(CUDA.image_tag) in text
    assert str(VOLTA.image_tag) in text


def test_the_containerfile_starts_from_the_same_bases() -> None:
    text = sky_data("Containerfile").read_text()
    assert f"ARG BASE={CUDA.base}\n" in text
    for part in (VOLTA.base, CUDA.base_tag, VOLTA.base_tag):
        assert part in text


def test_the_locks_pin_the_pytorch_of_the_images() -> None:
    for pins in (CUDA, VOLTA):
        (torch,) = re.findall(r"^torch==([0-9.]+)", lock_file(pins.platform).read_text(), re.MULTILINE)
        assert str(pins.image_tag).startswith(f"{torch}-")
