"""Reference log-probabilities: computed once, kept by content, whole after a kill, shared between processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.runs import interrupted, lines, start
from train.reference import ReferenceCache, model_key, pair_key
from train.trainer import StageBTrainer

A, B, C = (bytes([i]) * 32 for i in (1, 2, 3))


def test_what_was_put_is_found_again_to_the_last_bit(tmp_path: Path) -> None:
    ReferenceCache(tmp_path, "m").put({A: (-1 / 3, -2e300), B: (0.1, 0.2)})
    again = ReferenceCache(tmp_path, "m")
    assert (again.get(A), again.get(B), again.get(C)) == ((-1 / 3, -2e300), (0.1, 0.2), None)
    assert ReferenceCache(tmp_path, "other").get(A) is None


@pytest.mark.parametrize("torn", [1, 7, 8, 20, 55])
def test_a_torn_tail_is_left_out_and_the_next_writer_cuts_it(tmp_path: Path, torn: int) -> None:
    ReferenceCache(tmp_path, "m").put({A: (1.0, 2.0)})
    path = tmp_path / "m.logps"
    whole = path.stat().st_size
    ReferenceCache(tmp_path, "m").put({B: (3.0, 4.0)})
    os.truncate(path, path.stat().st_size - torn)
    reader = ReferenceCache(tmp_path, "m")
    assert (reader.get(A), reader.get(B)) == ((1.0, 2.0), None)
    reader.put({C: (5.0, 6.0)})
    assert ReferenceCache(tmp_path, "m").get(C) == (5.0, 6.0)
    assert path.stat().st_size == whole + 8 + 48


def test_a_flipped_bit_is_not_believed(tmp_path: Path) -> None:
    ReferenceCache(tmp_path, "m").put({A: (1.0, 2.0)})
    path = tmp_path / "m.logps"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert ReferenceCache(tmp_path, "m").get(A) is None


def test_two_writers_see_each_other_and_the_first_value_stays(tmp_path: Path) -> None:
    one, two = ReferenceCache(tmp_path, "m"), ReferenceCache(tmp_path, "m")
    one.put({A: (1.0, 1.0)})
    two.put({A: (9.0, 9.0), B: (2.0, 2.0)})
    one.put({C: (3.0, 3.0)})
    assert two.get(A) == (1.0, 1.0)
    assert one.get(B) == (2.0, 2.0)
    assert [ReferenceCache(tmp_path, "m").get(key) for key in (A, B, C)] == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


def test_a_file_that_is_something_else_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "m.logps").write_bytes(b"not a cache at all")
    cache = ReferenceCache(tmp_path, "m")
    cache.put({A: (1.0, 2.0)})
    assert ReferenceCache(tmp_path, "m").get(A) == (1.0, 2.0)


ids = st.lists(st.integers(0, 2**32 - 1), max_size=6)


@given(first=st.tuples(ids, ids, ids), second=st.tuples(ids, ids, ids))
def test_pairs_have_the_same_key_exactly_when_their_ids_are_the_same(first, second) -> None:
    assert (pair_key(*first) == pair_key(*second)) == (first == second)


def test_a_models_key_follows_one_changed_weight_and_not_its_place(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 1000 + (b"y" if name == "three" else b"x"))
    keys = [model_key(tmp_path / name, None, {"precision": "fp32"}) for name in ("one", "two", "three")]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != model_key(tmp_path / "one", None, {"precision": "bf16"})


def test_nothing_is_computed_twice_over_epochs_resumes_and_runs(run_document, monkeypatch) -> None:
    """20 pairs in all: 16 of training over two epochs, 4 of validation at every interval."""
    computed: list[int] = []
    compute = StageBTrainer.compute_ref_log_probs

    def counting(self, model, inputs):
        computed.append(inputs["input_ids"].size(0) // 2)
        return compute(self, model, inputs)

    monkeypatch.setattr(StageBTrainer, "compute_ref_log_probs", counting)
    document = run_document()
    gate = 2  # a pair each: the gate's two losses are against a fresh reference
    interrupted(document, monkeypatch, at_step=5)
    assert sum(computed) == gate + 10 + 4
    start(document)
    assert sum(computed) == 2 * gate + 16 + 4
    again = run_document()
    again["output_dir"] += "-again"
    start(again)
    assert sum(computed) == 3 * gate + 16 + 4
    assert [line["loss"] for line in lines(again, "train")] == [line["loss"] for line in lines(document, "train")]
    assert all(line["phases"]["reference"] >= 0 for line in lines(document, "train"))
