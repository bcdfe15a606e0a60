"""`metrics.jsonl`: whole lines, cut back to a step when a run goes on from there."""

from __future__ import annotations

from pathlib import Path

from tests.train.test_watch import line
from train.journal import Journal
from train.metrics import NoticeLine


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    notice = NoticeLine(at="", step=2, code="displaced", message="è")
    written = [line(1, 0.0, 0.1), line(2, 0.0, 0.2), notice]
    for each in written:
        journal.append(each)
    assert list(journal.lines()) == written


def test_cutting_back_keeps_the_step_itself_and_drops_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        journal.append(line(step, 0.0, 0.0))
    with journal.path.open("a") as file:
        file.write('{"kind":"train","step":4')
    journal.cut_back(2)
    assert [each.step for each in journal.lines()] == [1, 2]
    journal.cut_back(-1)
    assert journal.path.read_bytes() == b""


def test_a_torn_line_goes_even_where_nothing_else_does(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(line(1, 0.0, 0.0))
    with journal.path.open("a") as file:
        file.write('{"kind"')
    journal.cut_back(10)
    journal.append(line(2, 0.0, 0.0))
    assert [each.step for each in journal.lines()] == [1, 2]


def test_what_a_newer_trainer_wrote_is_kept_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind":"dream","step":1}\n')
    journal = Journal(path)
    journal.cut_back(5)
    assert list(journal.lines()) == []
    assert path.read_text() == '{"kind":"dream","step":1}\n'


def test_there_may_be_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.cut_back(3)
    assert list(journal.lines()) == []
