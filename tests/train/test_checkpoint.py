# pyright: basic
"""A checkpoint is whole or not there, and holds no pickle."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch

from tests.train.runs import start
from train import checkpoint, random_state


def write(parent: Path, step: int) -> Path:
    return checkpoint.write(parent, step, {"a.safetensors": {"x": torch.arange(4.0)}}, {"b.json": "{}"})


def test_it_reads_back_and_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        folder = write(tmp_path, 7)
    finally:
        os.umask(before)
    assert torch.equal(checkpoint.read_tensors(folder, "a.safetensors")["x"], torch.arange(4.0))
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert checkpoint.is_whole(folder)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no marker", "marker cut"])
def test_a_torn_one_is_recognised_and_the_one_before_it_is_taken(tmp_path, damage):
    older, newer = write(tmp_path, 5), write(tmp_path, 10)
    part, marker = newer / "a.safetensors", newer / checkpoint.WHOLE
    data = part.read_bytes()
    match damage:
        case "cut":
            part.write_bytes(data[:-1])
        case "changed":
            part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "missing":
            part.unlink()
        case "no marker":
            marker.unlink()
        case "marker cut":
            marker.write_bytes(marker.read_bytes()[:40])
    assert checkpoint.newest_whole(tmp_path) == older
    assert checkpoint.sweep(tmp_path) == ["checkpoint-10"]


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    whole = write(tmp_path, 5)
    (tmp_path / "checkpoint-6.tmp-123").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoint.sweep(tmp_path) == ["checkpoint-6.tmp-123"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [whole.name, "notes"]


def test_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 5)
    assert checkpoint.is_whole(write(tmp_path, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_full_disk_leaves_the_last_one_whole_and_no_half_one(tmp_path, monkeypatch):
    write(tmp_path, 5)
    synced = checkpoint.write_synced

    def full(path, data):
        if path.name == "b.json":
            raise OSError(28, "No space left on device")
        synced(path, data)

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_newest_is_by_number_and_two_are_kept(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    checkpoint.rotate(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]
    newest = checkpoint.newest_whole(tmp_path)
    assert newest is not None
    assert checkpoint.step_of(newest) == 100


def test_an_optimizers_state_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    optimizer = torch.optim.AdamW(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.randn(3)
    optimizer.step()
    tensors, rest = checkpoint.pack_optimizer(optimizer.state_dict())
    again = torch.optim.AdamW(weights, lr=0.5)
    again.load_state_dict(checkpoint.unpack_optimizer(tensors, json.loads(json.dumps(rest))))
    mine, theirs = again.state_dict(), optimizer.state_dict()
    assert mine["param_groups"][0]["lr"] == 0.1
    for index, entries in theirs["state"].items():
        assert all(torch.equal(mine["state"][index][name], value) for name, value in entries.items())


def test_the_random_state_comes_back():
    import random

    import numpy as np

    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    tensors, rest = random_state.capture()
    first = draw()
    draw()
    random_state.restore(tensors, json.loads(json.dumps(rest)))
    assert draw() == first


def test_a_run_writes_no_pickle(run_document):
    document = run_document(max_steps=4)
    start(document)
    out = Path(document["output_dir"])
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl", ".lock"}
    assert not any(path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05") for path in files)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["checkpoint-3", "checkpoint-4"]
