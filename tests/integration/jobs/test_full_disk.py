"""A disk that is full where results come home to: said, nothing lost, and `launch pull` repeats it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.errors import LaunchError, UsageProblem
from jobs import pull
from jobs.job import Outcome, State


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of six pages. Needs root (a mount); skipped, saying so, without."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_while_pulling_keeps_the_work_folder_and_pull_repeats_it(bench, small_disk: Path):
    job = bench.job({}, results=small_disk / "runs" / "dpo-1")
    done = bench.run(job)
    assert (done.state, done.outcome) == (State.DONE, Outcome.FAILED), bench.log(job)
    work = bench.home.work(job.id)
    for words in ("the disk is full", f"they are kept in {work}", f"launch pull {job.id}"):
        assert words in (done.error or "")
    assert (work / "adapter" / "adapter_model.safetensors").is_file()
    assert not pull.results_are_whole(job.spec.results)
    assert not list(job.spec.results.glob(".incoming-*"))
    with pytest.raises(UsageProblem, match="not whole"):
        pull.remove(bench.home, bench.store, done)
    with pytest.raises(LaunchError, match="the disk is full"):
        pull.pull(bench.home, bench.store, done)  # there is no more room than before

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    pull.pull(bench.home, bench.store, done)
    assert pull.results_are_whole(job.spec.results)
    whole = (work / "adapter" / "adapter_model.safetensors").read_bytes()
    assert bench.weights(done) == whole
    assert (job.spec.results / "report.html").exists()
