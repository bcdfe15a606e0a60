from __future__ import annotations

import json
import pickle
import struct

import pytest

from artifacts.acceptance import accept, accept_name, check_safetensors
from artifacts.errors import NotWhole


def tensors(header, data=b"\0" * 8):
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


GOOD = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def test_a_folder_of_data_is_taken(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "adapter_model.safetensors").write_bytes(tensors(GOOD))
    (tmp_path / "adapter_config.json").write_text("{}")
    accept(tmp_path)


@pytest.mark.parametrize(
    "name", ["model.bin", "optimizer.pt", "x.pkl", "run.sh", "code.py", "a.pth", "program", ".json"]
)
def test_other_kinds_of_file_are_refused(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(NotWhole, match="not taken"):
        accept(tmp_path)


@pytest.mark.parametrize("content", [pickle.dumps({}, 2), pickle.dumps({}), b"PK\x03\x04.", b"\x7fELF", b"#!/bin/sh"])
def test_programs_and_pickles_under_a_harmless_name_are_refused(tmp_path, content):
    (tmp_path / "rng.json").write_bytes(content)
    with pytest.raises(NotWhole):
        accept(tmp_path)


def test_links_are_refused_even_to_folders(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "etc").symlink_to("/etc")
    with pytest.raises(NotWhole, match="symbolic link"):
        accept(tmp_path / "in")
    with pytest.raises(NotWhole, match="symbolic link"):
        accept(tmp_path / "in" / "etc")


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "a/../../x.json", "a\\..\\x.json", "", "x\0.json"])
def test_paths_that_lead_outside_are_refused(name):
    with pytest.raises(NotWhole):
        accept_name(name)


def with_a(**changes):
    return {"a": GOOD["a"] | changes}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10\0\0",
        tensors(GOOD)[:-1],
        tensors(GOOD)[:20],
        tensors(GOOD, b"\0" * 9),
        struct.pack("<Q", 1 << 60) + b"{}",
        tensors(with_a(dtype="O64")),
        tensors(with_a(shape=[3])),
        tensors(with_a(data_offsets=[8, 0])),
        tensors(GOOD | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        tensors({"a": 7}),
        tensors([1]),
    ],
)
def test_safetensors_that_are_not_whole_are_refused(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(NotWhole):
        check_safetensors(file)
