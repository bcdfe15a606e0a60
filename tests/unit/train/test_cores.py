"""How many cores a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from train import cores
from train.run import thread_count


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1), ("6400000 100000", 8), (None, 8)],
)
def test_a_containers_quota_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cores.cores() == expected


def test_processes_of_a_run_share_the_cores_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.run.cores", lambda: 4)
    assert [thread_count(64, processes) for processes in (1, 2, 8)] == [4, 2, 1]
    assert thread_count(2, 1) == 2
