"""A trainer in miniature, as a real child process: the same files, signals and exit codes, and no torch.

It stands where `[train] python` does: asked with -c it names versions, with -m train it "trains". What it does is in
`behaviour.json` beside the training data. Each step's weights follow from the last ones, so that a run that went on
from a checkpoint ends as an uninterrupted one does, and a wrong resume shows.
"""

import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

stop = False


def on_signal(number, frame):
    global stop
    stop = True


def safetensors(data):
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def write_folder(folder, data, extra):
    beside = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "adapter_model.safetensors").write_bytes(safetensors(data))
    for name, document in extra.items():
        (beside / name).write_text(json.dumps(document))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def hold():
    """Until a signal or the end of standard input."""
    global stop
    while not stop:
        ready, _, _ = select.select([0], [], [], 0.02)
        if ready and not os.read(0, 1):
            stop = True


def train(config):
    work = Path(config["output_dir"])
    how = json.loads((Path(config["data"]["train"]).parent / "behaviour.json").read_text())
    alone = os.open(work / "alone", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (work / "two_at_once").touch()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if how.get("deaf") else on_signal)
    done = sorted(int(path.name.split("-")[1]) for path in (work / "checkpoints").glob("checkpoint-*"))
    step, state = 0, b"stage a"
    if done:
        step = done[-1]
        raw = (work / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()
        state = raw[-32:]
    while step < how["steps"] and not stop:
        step += 1
        state = hashlib.sha256(state + bytes([step])).digest()
        line = {
            "kind": "train", "at": "2026-11-23T00:00:00Z", "step": step, "max_steps": how["steps"], "epoch": 0.1,
            "loss": 0.7 / step, "rewards_chosen": 0.1, "rewards_rejected": -0.1, "margin": 0.2, "accuracy": 1.0,
            "logps_chosen": -9.0, "logps_rejected": -11.0, "learning_rate": 1e-5, "grad_norm": 1.0, "tokens": 9,
            "seconds": 0.01, "memory_mib": 1.0,
            "phases": {"reference": 0, "forward": 0, "backward": 0, "optimizer": 0},
        }  # fmt: skip
        if config["method"] == "sft":
            line |= dict.fromkeys(("rewards_chosen", "rewards_rejected", "margin", "accuracy", "logps_rejected"))
        with (work / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps(line) + "\n")
            if step == how.get("displaced_at"):
                notice = {"kind": "notice", "at": "x", "step": step, "code": "displaced", "message": "chosen falls"}
                metrics.write(json.dumps(notice) + "\n")
        if how.get("checkpoints", True):
            write_folder(work / "checkpoints" / f"checkpoint-{step}", state, {"trainer_state.json": {"step": step}})
        if step == how.get("fail_at"):
            print("RuntimeError: the pairs were not good", file=sys.stderr)
            return 1
        if step == how.get("hold_at"):
            if how.get("deaf"):
                time.sleep(600)
            hold()
    reason = "signal" if stop else how.get("reason", "finished")
    if how.get("checkpoints", True):
        for name in ("adapter", "adapter_last"):
            write_folder(work / name, state, {"adapter_config.json": {"r": 2}})
    (work / "data.json").write_text(json.dumps({"train": {"pairs": 3}}))
    end = {"schema": "end/1", "reason": reason, "step": step, "max_steps": how["steps"], "seconds": 1.0}
    (work / "end.json").write_text(json.dumps(end))
    return 0


def evaluate(config):
    how = json.loads((Path(config["test"]).parent / "behaviour.json").read_text())
    signal.signal(signal.SIGTERM, on_signal)
    if how.get("evaluation") == "fails":
        return 3
    if how.get("evaluation") == "holds":
        hold()
        return 1
    figure = {"value": 0.5, "low": 0.3, "high": 0.7, "n": 10}
    measures = [{"name": "hallucination", "kind": "rate", "fact": None, "stage_a": figure, "stage_b": figure}]
    Path(config["output"]).write_text(json.dumps({"schema": "eval/1", "job": config["job"], "measures": measures}))
    return 0


if sys.argv[1] == "-c":
    print(json.dumps(dict.fromkeys(sys.argv[3:], "99.0")))
else:
    assert sys.argv[1:3] == ["-m", "train"]
    document = json.loads(Path(sys.argv[5]).read_text())
    assert sys.argv[3] in ("evaluate", document["method"])
    sys.exit((evaluate if sys.argv[3] == "evaluate" else train)(document))
