"""Switches that change what is refused or what is installed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.program import PAIRS, Program, without_test_data


def spoil(project: Path, count: int) -> None:
    """The first `count` pairs prefer nothing: chosen is rejected."""
    file = project / "data" / "train.jsonl"
    pairs = [json.loads(line) for line in file.read_text().splitlines()]
    for pair in pairs[:count]:
        pair["rejected"] = pair["chosen"]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def test_pairs_that_teach_nothing_are_refused_and_force_trains_on_the_rest(small: Program) -> None:
    without_test_data(small.folder)
    equal = PAIRS // 2 + 8
    spoil(small.folder, equal)
    run = ("dpo", "--yes", "--max-steps", "2")
    done = small.run(*run)
    assert done.returncode == 2
    assert "These pairs are refused" in done.stderr
    assert f"{equal} of {PAIRS} pairs would teach nothing" in done.stderr
    assert "--force" in done.stderr
    assert small.document("status")["jobs"] == []
    assert not (small.folder / "runs").exists()

    small.good(*run, "--force")
    row = small.job("dpo-1")
    assert (row["outcome"], row["step"]) == ("succeeded", 2)
    report = json.loads(Path(row["results"], "data.json").read_text())["train"]
    assert (report["pairs"], report["usable"]) == (PAIRS, PAIRS - equal)


def test_pip_args_of_the_project_reach_pip(small: Program, tmp_path: Path) -> None:
    wheels = tmp_path / "wheel house"
    wheels.mkdir()
    settings = small.folder / "launch.toml"
    trainer = f'[train]\npip_args = ["--no-index", "--find-links", "{wheels}"]\n'
    settings.write_text(f"[dpo]\n{settings.read_text()}\n{trainer}")  # `train` is a key of the job there
    program = Program(small.home, small.folder, {"LAUNCH_TRAIN_PYTHON": ""})  # an environment made by the program
    done = program.run("dpo", "--yes", "--max-steps", "2")
    assert done.returncode == 2, done.stderr
    assert "pip install failed" in done.stderr
    (log,) = (small.home / "state" / "environments").glob("*.log")
    assert f"Looking in links: {wheels}" in log.read_text()
    assert program.document("status")["jobs"] == []
