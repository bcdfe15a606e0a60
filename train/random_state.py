# pyright: basic, reportMissingImports=false
"""The state of every random generator that a run draws from, as tensors and JSON."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Python's, NumPy's, torch's and (where used) CUDA's state."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64))}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), int(position), int(has_gauss), float(cached)],
    }


def restore(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> None:
    """Puts back what `capture` gave."""
    version, internal, gauss = rest["python"]
    random.setstate((version, tuple(internal), gauss))
    name, position, has_gauss, cached = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
