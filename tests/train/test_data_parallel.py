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


def torchrun(folder: Path) -> subprocess.Popen:
    """torchrun starts both processes, with the configuration that `trainer` left in the folder."""
    environment = os.environ | {"PYTHONPATH": str(Path(train.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "train", "dpo", "--config", str(folder / "run.json")]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


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


def test_stopped_by_sigterm_and_killed_with_kill_9_it_ends_as_the_run_that_was_not(run_document, tmp_path):
    """Two processes: without a break; SIGTERM to the first; then kill -9 of the second; then to the end by torchrun."""
    whole = with_processes(run_document(epochs=4, save_every=4, eval_every=8), 2)
    parts = beside(whole)
    finish(trainer(whole, tmp_path))

    process = trainer(parts, tmp_path, "--stop-on-eof", stdin=subprocess.PIPE)
    wait_for_step(parts, 5, process)
    process.send_signal(signal.SIGTERM)
    finish(process)
    end = end_of(parts)
    assert end["reason"] == "signal"
    newest = checkpoint.newest_whole(Path(parts["output_dir"]) / "checkpoints")
    assert newest is not None
    assert checkpoint.step_of(newest) == end["step"] >= 5
    assert {"random.json", "random-1.json"} <= {path.name for path in newest.iterdir()}

    process = trainer(parts, tmp_path)
    wait_for_step(parts, end["step"] + 6, process)
    (follower,) = followers(process)
    follower.kill()
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1, said.decode()
    assert "Process 1 of 2 (counted from 0) was killed by SIGKILL" in said.decode()
    assert "Traceback" not in said.decode()
    end = end_of(parts)
    assert end["reason"] == "error"
    assert "was killed by SIGKILL" in end["message"]

    finish(torchrun(tmp_path))
    assert numbers(parts) == numbers(whole)
    assert numbers(parts, "val") == numbers(whole, "val")
    assert adapters(parts) == adapters(whole)


def test_the_others_end_with_the_first_and_one_process_goes_on_where_two_were(run_document, tmp_path):
    one = run_document(epochs=3, batch_size=4, save_every=2)
    two = with_processes(one, 2)
    assert start(one) == 0
    process = trainer(two, tmp_path)
    wait_for_step(two, 5, process)
    others = followers(process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    process.stderr.close()
    _, alive = psutil.wait_procs(others, timeout=10)
    assert len(others) == 1
    assert not alive
    alone = two | {"execution": two["execution"] | {"processes": 1}}
    assert start(alone) == 0
    assert [line["step"] for line in lines(two, "train")] == list(range(1, 13))
    for name in ("loss", "margin", "rewards_chosen"):
        ours, theirs = ([line[name] for line in lines(each, "train")] for each in (two, one))
        assert ours == pytest.approx(theirs, abs=1e-5, rel=0), name


FAILING = """
import sys
import train.gate as gate
from train.__main__ import main

check = gate.check_gradients
def failing(trainer, *rest):
    if trainer.group.rank == 1:
        raise gate._failed("gradient_above_noise", "made to fail")
    check(trainer, *rest)
gate.check_gradients = failing
sys.exit(main())
"""


def test_a_gate_that_fails_in_one_process_ends_all_with_its_reason(run_document, tmp_path):
    """`train` is the program of this folder: each process runs it, since each starts `-m train` from the same path."""
    package = tmp_path / "path" / "train"
    package.mkdir(parents=True)
    for module in Path(train.__file__).parent.glob("*.py"):
        (package / module.name).symlink_to(module)
    (package / "__main__.py").rename(package / "command.py")
    (package / "__main__.py").write_text(FAILING.replace("train.__main__", "train.command"))
    document = with_processes(run_document(), 2)
    config = tmp_path / "run.json"
    config.write_text(json.dumps(document))
    environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path / "path"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train", "dpo", "--config", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 1, done.stderr.decode()
    assert "made to fail (found by process 1 of 2" in done.stderr.decode()
    assert "made to fail" in end_of(document)["message"]
    assert not (Path(document["output_dir"]) / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("processes", "training", "says"),
    [
        (2, {"batch_size": 3}, "not divisible by 2 processes(.|\n)*set --batch-size to 2 or 4"),
        (4, {"batch_size": 2}, "not divisible by 4 processes(.|\n)*set --batch-size to 4,"),
        (2, {"batch_size": 12, "micro_batch_size": 4}, "micro_batch_size 4 on 2 processes(.|\n)*has 6 pairs"),
    ],
)
def test_a_step_that_cannot_be_shared_is_refused_before_anything_is_loaded(
    run_document, monkeypatch, processes, training, says
):
    monkeypatch.setattr("train.model.load_stage_a", None)
    monkeypatch.setattr("train.ranks.subprocess.Popen", None)
    with pytest.raises(InputError, match=says):
        start(with_processes(run_document(**training), processes))


def test_each_process_sees_one_gpu_and_fewer_gpus_than_processes_are_refused(monkeypatch):
    from train.config import Execution

    execution = Execution(device="cuda", processes=2)
    for rank, gpu in ((0, "4"), (1, "6")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))
        place = take_place(execution)
        assert (place.rank, place.size) == (rank, 2)
        assert "RANK" not in os.environ
        use_one_device(execution, place)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
    with pytest.raises(InputError, match=r"set execution\.processes to 1"):
        use_one_device(execution, Place(size=2, visible="5"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    use_one_device(execution, Place(size=2))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="3 processes were started"):
        take_place(execution)


def test_what_a_process_reports_becomes_the_error_of_the_run():
    told = json.dumps({"exit_code": 2, "lost_contact": False, "what": "no pair", "why": "empty", "next_step": "look"})
    error = read_report(f"noise\n{told}\n", 2, 1, 4)
    assert isinstance(error, InputError)
    assert error.what == "no pair"
    assert read_report(json.dumps({"exit_code": 1, "lost_contact": True, "what": "gloo"}), 1, 2, 4) is None
    assert isinstance(read_report("Segmentation fault", 139, 2, 4), TrainError)
