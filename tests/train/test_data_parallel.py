# pyright: basic
"""Two processes train as one does: the same pairs a step, the same losses, and one adapter that survives each end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, SequentialSampler

import train
from tests.train.runs import end_of, lines, start
from tests.train.test_resume import adapters, beside, numbers, trainer, wait_for_step
from train import checkpoint
from train.errors import InputError, TrainError
from train.ranks import Place, read_report, take_place, use_one_device
from train.shares import Shares

SECONDS = 90


def with_processes(document: dict, number: int, name: str = "-two") -> dict:
    """The same run on `number` processes, in folders of its own."""
    folders = {key: document[key] + name for key in ("output_dir", "reference_cache")}
    return document | folders | {"execution": document["execution"] | {"processes": number}}


def finish(process: subprocess.Popen) -> str:
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said.decode()
    return said.decode()


def followers(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def largest_difference(one: dict, other: dict) -> float:
    """Of any number of the last adapters, relative to the tensor's largest."""
    ours, theirs = (
        load_file(Path(each["output_dir"]) / "adapter_last" / "adapter_model.safetensors") for each in (one, other)
    )
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max() / theirs[key].abs().max()) for key in ours)


@pytest.mark.parametrize("pairs", [8, 11, 9, 3])
@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_shares_of_a_step_are_the_pairs_of_one_process(pairs, micro, size):
    """11 pairs in steps of 4: in the last step a process may have none, and has an empty micro-batch."""
    micro = min(micro, 4 // size)
    order = range(pairs)
    shares = [Shares(SequentialSampler(order), 4, micro, rank, size) for rank in range(size)]
    dealt = [list(share) for share in shares]
    rounds = 4 // size // micro
    assert [len(each) for each in dealt] == [len(share) for share in shares] == [len(dealt[0])] * size
    for at, step in enumerate(BatchSampler(SequentialSampler(order), 4, drop_last=False)):
        parts = [batch for each in dealt for batch in each[at * rounds : (at + 1) * rounds]]
        assert sorted(index for batch in parts for index in batch) == step
        assert max(map(len, parts)) <= micro


@pytest.mark.parametrize("adapter", [True, False])
def test_two_processes_train_as_one_with_an_uneven_last_step(run_document, tmp_path, adapter):
    """13 pairs in steps of 4, three epochs: the last step of each has one pair, so that one process has none."""
    one = run_document(adapter=adapter, epochs=3, batch_size=4, eval_every=4)
    for name, count in (("train", 13), ("val", 3)):
        path = Path(one["data"][name])
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    two = with_processes(one, 2)
    assert start(one) == 0
    said = finish(trainer(two, tmp_path))
    assert "on 2 processes" in said
    ours, theirs = lines(two, "train"), lines(one, "train")
    assert [line["step"] for line in ours] == list(range(1, 13))
    for name in ("loss", "grad_norm", "logps_chosen", "tokens", "learning_rate", "epoch"):
        assert [line[name] for line in ours] == pytest.approx([line[name] for line in theirs], rel=2e-6), name
    assert [x["loss"] for x in ours] == pytest.approx([x["loss"] for x in theirs], rel=1e-6)
    assert [line["margin"] for line in ours] == pytest.approx([line["margin"] for line in theirs], abs=2e-6)
    ours, theirs = lines(two, "val"), lines(one, "val")
    assert [(line["step"], line["pairs"]) for line in ours] == [(line["step"], 3) for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-6)
    assert largest_difference(two, one) < 1e-4
    assert end_of(two)["best_step"] == end_of(one)["best_step"]
