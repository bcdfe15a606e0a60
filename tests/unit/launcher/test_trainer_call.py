"""A question to the trainer: its answer, what it said, and the bar while a terminal watches."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.environment import Environment
from launcher.trainer_call import ask_trainer
from train.requirement import Part


@pytest.fixture
def child(tmp_path: Path) -> Environment:
    """An interpreter whose `train` says progress, another line, and a document."""
    package = tmp_path / "child" / "train"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\n"
        "assert '--progress' in sys.argv\n"
        "for n in (3, 9):\n"
        '    print(\'{"progress": {"done": %d, "total": 9, "of": "pairs"}}\' % n, file=sys.stderr)\n'
        "print('a library speaks', file=sys.stderr)\n"
        "print('x' * 200_000)\n"
    )
    return Environment(Path(sys.executable), tmp_path / "child", "none")


def test_progress_is_no_message(child: Environment, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = ask_trainer(child, tmp_path, "check", Part(), "--progress")
    assert (answer.returncode, answer.said, len(answer.document)) == (0, "a library speaks", 200_001)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(child: Environment, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from jobs.environment import Environment;"
        "from launcher.trainer_call import ask_trainer; from train.requirement import Part; p = Path(sys.argv[1]);"
        "print(ask_trainer(Environment(Path(sys.executable), p / 'child', ''), p, 'check', Part(), '--progress').said)"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "TERM": "xterm"},
    )  # fmt: skip
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert done.stdout == "a library speaks\n"
    assert "pairs" in shown
    assert "9/9" in shown
