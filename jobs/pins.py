"""Which lock file and which container image a GPU wants. Data.

One build of PyTorch cannot serve every GPU: CUDA 13 knows Turing and newer, the last build that knows Volta is that for
CUDA 12.6, and this one has nothing for Blackwell (github.com/pytorch/pytorch/issues/172352 and /190385).
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.gpus import find


@dataclass(frozen=True)
class Pins:
    """A lock in `train/locks`, the public image whose PyTorch it names, and the base that `launch image build` takes.

    Images are pinned by digest; `image_tag` and `base_tag` are the tags under which the digests were published.
    `oldest` is the least compute capability that its PyTorch has kernels for; None without a GPU.
    """

    platform: str
    oldest: tuple[int, int] | None
    image: str | None
    image_tag: str | None
    base: str
    base_tag: str


_PYTORCH, _CUDA = "docker.io/pytorch/pytorch", "docker.io/nvidia/cuda"
CUDA = Pins(
    platform="cuda",
    oldest=(7, 5),
    image=f"{_PYTORCH}@sha256:db80a41f8428644cebcb3d75b0b62df334ab6c0e75785951eb25f48bfbd42407",
    image_tag="2.13.0-cuda13.0-cudnn9-runtime",
    base=f"{_CUDA}@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701",
    base_tag="13.0.2-base-ubuntu24.04",
)
VOLTA = Pins(
    platform="volta",
    oldest=(7, 0),
    image=f"{_PYTORCH}@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4",
    image_tag="2.13.0-cuda12.6-cudnn9-runtime",
    base=f"{_CUDA}@sha256:c87e78933f4c16e3272123bf2f75537306596d0fbaa395a29696a22786e5ee0e",
    base_tag="12.6.3-base-ubuntu24.04",
)
CPU = Pins(
    platform="cpu",
    oldest=None,
    image=None,
    image_tag=None,
    base="docker.io/library/python:3.11-slim-bookworm",
    base_tag="3.11-slim-bookworm",
)
PLATFORMS = {pins.platform: pins for pins in (CUDA, VOLTA, CPU)}


def pins_for(gpu: str | None) -> Pins:
    """What the GPU of that name runs (None: no GPU). One that is not in the table is taken to be a current one."""
    if gpu is None:
        return CPU
    card = find(gpu)
    if card is None:
        return CUDA
    return next((pins for pins in (CUDA, VOLTA) if pins.oldest and pins.oldest <= card.compute_capability), VOLTA)
