"""What a person sees on a terminal while a job trains."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.acceptance.processes import after_step, stopped_at
from tests.acceptance.program import Program, without_test_data
from tests.acceptance.terminal import Terminal

NAME = "[red]x[/]"
STEPS = 24


def on_terminal(program: Program, *words: str) -> Terminal:
    environ = program.variables() | {"PYTHONSAFEPATH": "1"}
    return Terminal([sys.executable, "-m", "launcher", *words], folder=str(program.folder), environ=environ)


def shows_training(screen: str) -> bool:
    """A whole panel: what a terminal has got so far may end in the middle of one."""
    progress = rf"training: step \d+ of {STEPS}, loss \d+\.\d+, margin -?\d+\.\d+, .*left"
    return "╰" in screen.rpartition("╭")[2] and re.search(progress, screen) is not None


def check_panel(screen: str) -> None:
    """One panel, whole, with the job's name as it was given."""
    lines = screen.splitlines()
    (top,) = [index for index, line in enumerate(lines) if line.startswith("╭")]
    (bottom,) = [index for index, line in enumerate(lines) if line.startswith("╰")]
    panel = lines[top : bottom + 1]
    assert {len(line) for line in panel} == {78}, screen
    assert f"dpo-1 {NAME}" in panel[0]
    for label in ("loss", "margin", "chosen"):
        assert any(re.match(rf"│ {label} +[▁▂▃▄▅▆▇█]+ +-?\d+\.\d\d\d", line) for line in panel), screen
    assert "Ctrl-C stops watching, not the job. launch cancel dpo-1 ends it." in panel[-2]


def check_left(terminal: Terminal) -> None:
    assert terminal.interrupt() == 130
    said = str(terminal.screen)
    assert "dpo-1 goes on" in said
    assert "launch status dpo-1 --watch" in said
    assert "launch cancel dpo-1" in said


def test_a_terminal_shows_the_training_and_ctrl_c_says_how_to_come_back(small: Program) -> None:
    without_test_data(small.folder)
    launched = on_terminal(small, "dpo", "--yes", "--max-steps", str(STEPS), "--name", NAME)
    trainer = stopped_at(small, after_step(3))
    check_panel(launched.until(shows_training, "the training"))
    check_left(launched)

    again = on_terminal(small, "status", "--watch")
    check_panel(again.until(shows_training, "the training"))
    check_left(again)
    assert small.job("dpo-1")["state"] == "training"

    piped = small.start("status", "dpo-1", "--watch")
    last = on_terminal(small, "status", "dpo-1", "--watch")
    last.until(shows_training, "the training")
    trainer.resume()
    assert last.end() == 0
    assert "dpo-1 succeeded" in str(last.screen)
    assert "╭" not in str(last.screen)
    out, err = piped.communicate(timeout=60)
    assert piped.returncode == 0
    assert "dpo-1 training: step" in err
    assert "\x1b" not in out + err
    assert NAME in small.good("status").stdout


def is_displaced(program: Program) -> bool:
    file = program.state("dpo-1") / "work" / "metrics.jsonl"
    return file.exists() and '"displaced"' in file.read_text()


def unwrapped(screen: str) -> str:
    return re.sub(r"[\s│]+", " ", screen)


def test_a_policy_that_is_displaced_is_said_while_it_trains_and_after_it(small: Program) -> None:
    without_test_data(small.folder)
    # apo_down is made for chosen that are worse than the model's own: it lowers both, and rejected more.
    settings = ("--loss-type", "apo_down", "--learning-rate", "0.01", "--batch-size", "4", "--eval-every", "100")
    launched = on_terminal(small, "dpo", "--yes", "--max-steps", "60", *settings)
    trainer = stopped_at(small, is_displaced)
    seen = launched.until(lambda screen: "help." in screen and "! displaced" in screen, "the notice")
    assert "training: step" in seen
    said = "The policy is displaced, not improved; adapter/ stays the best on validation."
    assert said in unwrapped(seen)
    assert "! displaced: launch logs dpo-1" in seen
    assert said in small.good("logs", "dpo-1").stdout
    trainer.resume()
    assert launched.end() == 0
    assert "displaced: launch logs dpo-1" in unwrapped(str(launched.screen))
    row = small.job("dpo-1")
    assert [(item["code"], item["command"]) for item in row["attention"]] == [("displaced", "launch logs dpo-1")]
    assert said in Path(row["results"], "report.html").read_text()
