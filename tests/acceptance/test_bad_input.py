"""Every bad input: exit 2, one message with what, where, why and the next command, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.program import Program, edit_requirement

Spoil = Callable[[Path], None]

WHAT_TO_TYPE = re.compile(r"launch |--\w|LAUNCH_|\w/\w|\w\.\w|\{")
"""A command, a flag, a variable, a file, a key, or an example of a good line."""


def refused(program: Program, *words: str) -> str:
    """Run a job that must be refused with exit 2, and return its message. Nothing was recorded or left behind."""
    done = program.run("dpo", "--yes", "--max-steps", "2", *words)
    assert done.returncode == 2, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    (step,) = re.findall(r"^Next: (.+)", done.stderr, re.MULTILINE)
    assert WHAT_TO_TYPE.search(step), f"a next step that names nothing: {step}"
    assert done.stdout == ""
    assert program.document("status")["jobs"] == []
    assert not list((program.folder / "runs").glob("*"))
    return done.stderr


def edit(*path: str | int, to: object) -> Spoil:
    return lambda folder: edit_requirement(folder, path, to)


def cut_requirement(folder: Path) -> None:
    file = folder / "requirement.json"
    file.write_text(file.read_text()[:200])


def nan_memory(folder: Path) -> None:
    edit_requirement(folder, ("options", 0, "min_ram_gib"), 12345.0)
    file = folder / "requirement.json"
    file.write_text(file.read_text().replace("12345.0", "NaN"))


def no_config(folder: Path) -> None:
    (folder / "stage_a" / "base" / "config.json").unlink()


def no_base(folder: Path) -> None:
    shutil.rmtree(folder / "stage_a" / "base")


def weights_file(folder: Path) -> Path:
    (file,) = (folder / "stage_a" / "base").glob("*.safetensors")
    return file


def only_bin(folder: Path) -> None:
    weights_file(folder).rename(folder / "stage_a" / "base" / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    content = weights_file(folder).read_bytes()
    weights_file(folder).write_bytes(content[: len(content) // 2])


def cut_adapter(folder: Path) -> None:
    file = folder / "stage_a" / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def adapter_of_another_shape(folder: Path) -> None:
    """The same file with twice the width in every lora_A: the header and the data agree, the base does not."""
    file = folder / "stage_a" / "adapter" / "adapter_model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data, made = bytearray(), {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensor = content[8 + length + begin : 8 + length + end]
        if "lora_A" in name:
            entry["shape"][1] *= 2
            tensor *= 2
        made[name] = {**entry, "data_offsets": [len(data), len(data) + len(tensor)]}
        data += tensor
    text = json.dumps(made).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def data_file(content: bytes) -> Spoil:
    return lambda folder: (folder / "data" / "train.jsonl").write_bytes(content) and None


def val_data(content: bytes) -> Spoil:
    return lambda folder: (folder / "data" / "val.jsonl").write_bytes(content) and None


def held_out_data(change: Callable[[list[str]], list[str]]) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "data" / "test.jsonl"
        file.write_text("".join(change(file.read_text().splitlines(keepends=True))))

    return spoil


def second_case(text: str) -> Spoil:
    return held_out_data(lambda lines: [lines[0], f"{text}\n"])


def trained_on(folder: Path) -> None:
    """The prompt of a training pair among the held-out ones."""
    trained = json.loads((folder / "data" / "train.jsonl").read_text().splitlines()[3])
    file = folder / "data" / "test.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    case = json.loads(lines[-1]) | {"prompt": trained["prompt"]}
    file.write_text("".join([*lines, json.dumps(case) + "\n"]))


def broken_line(folder: Path) -> None:
    file = folder / "data" / "train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[6] = '{"prompt": "a", "chosen": "b"}\n'
    file.write_text("".join(lines))


def a_line_of_a_gigabyte(folder: Path) -> None:
    with (folder / "data" / "train.jsonl").open("r+b") as file:
        file.truncate(2**30)  # a hole: one line of zeros, which costs no disk


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda f: (f / "requirement.json").unlink(), ["no requirement file"], id="requirement missing"),
        pytest.param(cut_requirement, ["cut off"], id="requirement cut off"),
        pytest.param(edit("schema", to="hardware-requirement/9"), ["hardware-requirement/1", "newer"], id="version"),
        pytest.param(nan_memory, ["NaN"], id="memory NaN"),
        pytest.param(edit("options", 0, "min_ram_gib", to=-4), ["min_ram_gib"], id="memory negative"),
        pytest.param(no_config, ["config.json"], id="model without config"),
        pytest.param(no_base, ["base"], id="adapter without its base"),
        pytest.param(adapter_of_another_shape, ["does not belong", "128 x 256"], id="adapter of another shape"),
        pytest.param(only_bin, [".bin", "safetensors"], id="only .bin weights"),
        pytest.param(cut_weights, ["safetensors"], id="weights cut off"),
        pytest.param(cut_adapter, ["adapter_model.safetensors"], id="adapter cut off"),
        pytest.param(lambda f: (f / "data" / "train.jsonl").unlink(), ["train.jsonl"], id="data missing"),
        pytest.param(data_file(b""), ["train.jsonl"], id="data empty"),
        pytest.param(data_file(b"not json\n"), ["train.jsonl", "1"], id="data not JSON"),
        pytest.param(data_file(b"\xff\xfe\x00\n"), ["train.jsonl"], id="data not UTF-8"),
        pytest.param(broken_line, ["train.jsonl", "7", "rejected"], id="a line without rejected"),
        pytest.param(held_out_data(lambda lines: []), ["test.jsonl", "no "], id="test data empty"),
        pytest.param(
            held_out_data(lambda lines: [lines[0], "not json\n"]), ["test.jsonl", "line 2"], id="test data not JSON"
        ),
        pytest.param(
            held_out_data(lambda lines: [lines[0], '{"prompt": "a"}\n']),
            ["test.jsonl", "line 2"],
            id="a case without facts",
        ),
        pytest.param(trained_on, ["test.jsonl", "not held out", "train.jsonl"], id="test prompts that are trained on"),
        pytest.param(val_data(b"not json\n"), ["val.jsonl", "1"], id="validation data not JSON"),
        pytest.param(a_line_of_a_gigabyte, ["train.jsonl", "1"], id="a line of 1 GB"),
    ],
)
def test_a_bad_file_is_refused_by_name(small: Program, spoil: Spoil, words: list[str]) -> None:
    spoil(small.folder)
    message = refused(small)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "5€", "inf"])
def test_a_budget_that_cannot_be(small: Program, budget: str) -> None:
    assert "--budget" in refused(small, "--budget", budget)


def test_an_unknown_cloud_suggests_the_nearest(small: Program) -> None:
    assert "Did you mean lambda?" in refused(small, "--cloud", "lambada")


def test_a_loss_that_trl_does_not_know_is_refused_before_training(small: Program) -> None:
    assert "Did you mean sigmoid?" in refused(small, "--loss-type", "sigmoyd")


def test_weights_of_another_count_than_losses(small: Program) -> None:
    message = refused(small, "--loss-type", "sigmoid,sft", "--loss-weights", "1")
    assert "--loss-weights: 1 weight for 2 losses" in message


def test_losses_typed_over_the_weights_of_a_file_name_the_file(small: Program) -> None:
    with (small.folder / "launch.toml").open("a") as file:
        file.write('loss_type = ["sigmoid", "sft"]\nloss_weights = [1.0, 0.2]\n')
    message = refused(small, "--loss-type", "sigmoid")
    assert "launch.toml: loss_weights: 2 weights for 1 loss" in message
    assert "--loss-type is sigmoid" in message


@pytest.mark.parametrize("flag", ["--spot", "--bucket=s3://b"])
def test_reserved_flags_say_so(small: Program, flag: str) -> None:
    assert "reserved" in refused(small, flag)


def test_an_output_folder_that_cannot_be_written(small: Program) -> None:
    (small.folder / "file").write_text("")
    message = refused(small, "--out", "file/runs")
    assert "--out" in message


def test_an_output_folder_on_a_disk_that_is_read_only(small: Program, read_only_disk: Path) -> None:
    message = refused(small, "--out", str(read_only_disk / "runs"))
    assert "Read-only file system" in message
    assert "--out" in message
    without = Program(read_only_disk, small.folder).run("status")
    assert without.returncode == 2
    assert f"The state folder {read_only_disk / 'state'} cannot be written" in without.stderr
    assert "Next: set LAUNCH_HOME" in without.stderr


def test_folders_without_the_right_to_write(small: Program, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    as_anyone: tuple[str, ...] = ()
    if os.geteuid() == 0:  # who may write in a folder of any mode, but for this
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to take that right away")
        as_anyone = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    program = replace(small, through=as_anyone)
    message = refused(program, "--out", str(closed / "runs"))
    assert "Permission denied" in message
    assert "--out" in message
    without = replace(program, home=closed).run("status")
    assert without.returncode == 2
    assert "Next: set LAUNCH_HOME" in without.stderr


def test_a_state_folder_whose_name_is_two_for_pythonpath(small: Program) -> None:
    done = Program(small.home / "a:b", small.folder).run("dpo", "--yes")
    assert done.returncode == 2
    assert "has a ':' in its path" in done.stderr
    assert "Next: set LAUNCH_HOME" in done.stderr
    assert not (small.home / "a:b").exists()


def test_held_out_data_that_is_missing_or_not_held_out(small: Program) -> None:
    assert "no file" in refused(small, "--test", "nowhere.jsonl")
    assert "is the data on which the adapter is trained" in refused(small, "--test", "data/train.jsonl")
    assert "is the data on which the adapter is chosen" in refused(small, "--test", "data/val.jsonl")
    assert not (small.folder / "runs").exists()


def test_a_list_of_terms_that_is_missing(small: Program) -> None:
    with (small.folder / "launch.toml").open("a") as file:
        file.write('terms = "nowhere.txt"\n')
    assert "nowhere.txt" in refused(small)


def test_a_state_folder_on_a_full_disk(small: Program, small_disk: Path) -> None:
    done = Program(small_disk, small.folder).run("dpo", "--yes")
    assert done.returncode == 2
    assert "full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_is_full_before_training(small: Program, small_disk: Path) -> None:
    message = refused(small, "--out", str(small_disk / "runs"))
    assert "full" in message


def test_a_database_of_a_newer_version_is_refused_and_untouched(small: Program) -> None:
    small.good("status")
    (file,) = (small.home / "state").glob("*.sqlite")
    with sqlite3.connect(file) as database:
        database.execute("update meta set value = '999' where key = 'schema_version'")
    database.execute("pragma wal_checkpoint(truncate)")
    database.execute("pragma journal_mode = delete")
    database.close()
    before = file.read_bytes()
    for words in (["status"], ["dpo", "--yes"], ["cost"]):
        done = small.run(*words)
        assert done.returncode == 2
        assert "newer" in done.stderr
    assert file.read_bytes() == before


def test_a_folder_and_a_file_of_any_name_simply_work(small: Program, tmp_path: Path) -> None:
    name = "-a b'c\"d\ne {x} [red]ünï [bold] %s"
    small.folder.rename(tmp_path / name)
    program = small.in_folder(tmp_path / name)
    data = "-x '\"\n{}.jsonl"
    (program.folder / "data" / "train.jsonl").rename(program.folder / data)
    done = program.run("dpo", "--yes", "--max-steps", "1", "--name", name, f"--train={data}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(program.good("status", "--json", "--", name).stdout)["jobs"]
    assert row["name"] == name
    assert Path(row["results"]) == tmp_path / name / "runs" / "dpo-1"
    assert Path(row["results"], "adapter", "adapter_model.safetensors").is_file()
    program.good("status")
    program.good("status", "dpo-1")


def test_a_verb_that_does_not_exist_suggests_the_nearest(program: Program) -> None:
    done = program.run("statsu")
    assert done.returncode == 2
    assert "Did you mean status?" in done.stderr
