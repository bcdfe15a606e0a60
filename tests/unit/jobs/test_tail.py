from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from jobs.tail import MetricsTail

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def line(step: int, seconds: float = 2.0) -> str:
    phases = {"reference": 0, "forward": 0, "backward": 0, "optimizer": 0}
    values = dict.fromkeys(
        ("epoch", "loss", "rewards_chosen", "rewards_rejected", "margin", "accuracy", "logps_chosen", "logps_rejected",
         "learning_rate", "grad_norm", "memory_mib"), 0.5,
    )  # fmt: skip
    whole = values | {"kind": "train", "at": "x", "step": step, "max_steps": 10, "tokens": 1, "phases": phases}
    return json.dumps(whole | {"seconds": seconds, "a_newer_field": 1}) + "\n"


def notice(step: int) -> str:
    return json.dumps({"kind": "notice", "at": "x", "step": step, "code": "displaced", "message": "m"}) + "\n"


def test_nothing_is_there_before_the_first_line(tmp_path):
    tail = MetricsTail(tmp_path / "m")
    assert not tail.read()
    assert tail.progress(NOW) is None


@given(cuts=st.lists(st.integers(0, 3000), max_size=8))
def test_lines_that_come_in_any_pieces_are_read_once(tmp_path_factory, cuts):
    file = tmp_path_factory.mktemp("m") / "m"
    data = "".join(line(n) if n != 4 else notice(n) + "not json\n" for n in range(1, 8)).encode()
    tail, begin = MetricsTail(file), 0
    for cut in [*sorted(cuts), len(data)]:
        with file.open("ab") as out:
            out.write(data[begin:cut])
        begin = max(begin, min(cut, len(data)))
        tail.read()
    assert tail.last is not None
    assert tail.last.step == 7
    assert [one.step for one in tail.notices] == [4]
    progress = tail.progress(NOW)
    assert progress is not None
    assert progress.eta_s == 3 * 2.0


def test_a_file_that_a_resume_cut_back_is_read_again(tmp_path):
    file = tmp_path / "m"
    tail = MetricsTail(file)
    file.write_text(line(1) + line(2) + line(3))
    assert tail.read()
    file.write_text(line(1) + line(2))
    assert tail.read()
    assert tail.last is not None
    assert tail.last.step == 2
    assert not tail.read()
