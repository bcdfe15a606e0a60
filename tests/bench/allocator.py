# pyright: basic
"""What PyTorch's own allocator gives out on a CPU, as its profiler hears of it."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_of(do: Callable[[], object]) -> int:
    """Bytes: the highest running sum of the allocator's events while `do` runs; what was there before is not in it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        do()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
