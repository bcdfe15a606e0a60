"""The data check on one screen, and its progress on a terminal or a pipe."""

from __future__ import annotations

from typing import Any

from launcher.data_view import WIDTH, lines

HUGE = 10**9


def document(**train: Any) -> dict[str, Any]:
    lengths = {"median": 1_700, "p95": 2_400, "p99": 2_900, "max": 3_000}
    values = {
        "path": "x", "max_length": 1024, "pairs": 8484, "usable": 8000,
        "left_out": [
            {"reason": "identical", "pairs": 4, "lines": [1]}, {"reason": "equal_after_cut", "pairs": 480, "lines": [2]}
        ],
        "truncated_pairs": 90, "truncated_chosen": 80, "truncated_rejected": 80, "duplicates": 12, "contradictions": 3,
        "tokens": dict.fromkeys(("prompt", "chosen", "rejected", "pair"), lengths),
        "lose_part": 570, "lose_all": 11, "whole_95": 2400, "whole_99": 2900,
        "length_bias": {
            "median": 12, "mean": 14.5, "relative": 0.05, "chosen_longer": 6000, "rejected_longer": 1500, "share": 0.8,
            "share_low": 0.79, "share_high": 0.81,
        },
        "trained": {"separate": 1200.4, "shared": 800.2}, "warnings": [], "refused": None,
    }  # fmt: skip
    val = values | {"pairs": 100, "usable": 99, "prompts_in_train": 7}
    step = {"batch_size": 4, "separate": 4801.6, "shared": 3200.8}
    return {"schema": "datacheck/1", "train": values | train, "val": val, "step": step}


def test_the_report_fits_a_screen_and_says_every_figure() -> None:
    said = lines(document())
    text = "\n".join(said)
    assert len(said) <= 14
    assert max(map(len, said)) <= WIDTH
    for part in (
        "8,000 of 8,484 training pairs", "570 lose the end", "11 lose all", "max_length 2,400 keeps 95%",
        "2,900 keeps 99%", "longer in 80%", "+12 tokens", "a step of 4: 4,802 tokens; 3,201", "12 repeated",
        "3 contradict", "484 chosen = rejected", "99 of 100 validation pairs", "7 with a prompt of training",
        "the model will learn length",
    ):  # fmt: skip
        assert part in text
    assert "..." not in text


def test_examples_are_counted_as_such_with_what_kto_wants_and_does_not() -> None:
    kto = document(noun="examples", desirable=6000, undesirable=2000, length_bias=None)
    text = "\n".join(lines(kto))
    for part in (
        "8,000 of 8,484 training examples", "examples cut: 570", "  wanted ", "  unwanted ", "  example ",
        "12 repeated, 3 contradict another; 6,000 wanted, 2,000 not", "a step of 4: 4,802 tokens",
    ):  # fmt: skip
        assert part in text
    sft = "\n".join(lines(document(noun="examples", length_bias=None)))
    assert "  completion " in sft
    for absent in ("rejected", "chosen", "wanted", "contradict", "share their prompt"):
        assert absent not in sft


def test_numbers_of_any_size_stay_within_the_columns() -> None:
    big = {"median": HUGE, "p95": HUGE, "p99": HUGE, "max": HUGE}
    said = lines(
        document(
            pairs=HUGE, usable=HUGE, max_length=HUGE, lose_part=HUGE, lose_all=HUGE, duplicates=HUGE, refused="x",
            contradictions=HUGE, tokens=dict.fromkeys(("prompt", "chosen", "rejected", "pair"), big),
        )
    )  # fmt: skip
    assert len(said) <= 14
    assert max(map(len, said)) <= WIDTH
    assert "refused: most pairs would teach nothing" in said[-1]


def test_a_report_of_nothing_usable_has_no_step_and_no_bias() -> None:
    bare = document(usable=0, length_bias=None, trained=None, refused="all of it") | {"step": None, "val": None}
    assert not any("length:" in line or "a step of" in line for line in lines(bare))
