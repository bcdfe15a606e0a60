"""The table of a plan: at most 12 rows of 80 columns, best first, whatever machines and options are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.offer import Offer, Phase, Plan, PricedOffer, WhyNot
from launcher.plan_view import (
    ROWS,
    SHORT,
    before_asking,
    command,
    decision,
    phases,
    sentence,
    table,
    upload,
)
from launcher.planning import load_of, plan
from tests.unit.launcher.test_planning import CASE, CPU, RATE
from tests.unit.launcher.test_planning_money import A10, A100, BACKENDS, FAST, planned

machines = st.builds(
    Offer,
    cloud=st.sampled_from(["lambda", "aws"]),
    instance_type=st.text("ab", min_size=1, max_size=6),
    region=st.just("us-east-1"),
    gpus=st.sampled_from([1, 8]),
    gpu=st.sampled_from(["A10", "A100-80GB", "V100-32GB", "H100-PCIe"]),
    vram_gib=st.sampled_from([16.0, 80.0]),
    ram_gib=st.sampled_from([8.0, 2000.0]),
    spot=st.booleans(),
    price_per_hour=st.floats(0.05, 99),
)


@given(st.lists(machines, max_size=20), st.sampled_from(["16bit-lora", "16bit-lora-ckpt-x8"]), st.booleans())
def test_at_most_12_rows_of_80_columns_best_first(found: list[Offer], name: str, partial: bool) -> None:
    first = planned(*found, CPU, budget=40, partial=partial)
    renamed = tuple(
        one.model_copy(update={"option": one.option.model_copy(update={"name": name})}) for one in first.offers
    )
    shown = first.model_copy(update={"offers": renamed})
    lines = table(shown)
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines[1:] if not line.startswith("(")]
    assert len(rows) <= ROWS
    assert [row.startswith(">") for row in rows[1:]] == [False] * (len(rows) - 1)
    if shown.choice:
        assert rows[0].startswith(">")
        assert rows[0].endswith("fits")
    if not partial:  # then all have one number of steps, which the sentence above says
        for row in rows:  # cut at the edge of the screen at worst, and known by its beginning
            assert any(f" {reason[:8]}" in row for reason in ("fits", *SHORT.values()))


def test_a_reason_is_a_word_or_two() -> None:
    assert max(map(len, SHORT.values())) <= 14


def test_a_command_has_the_budget_to_the_cent() -> None:
    assert command({"budget": 123456.78, "within": 1376.0, "partial": True}, "plan sft") == (
        "launch plan sft --budget 123456.78 --within 1376 --partial"
    )
    assert [command({"budget": usd}, "dpo") for usd in (2.8, 5.0, "0.5", 0.125)] == [
        f"launch dpo --budget {said}" for said in ("2.80", "5", "0.5", "0.125")
    ]


@pytest.mark.parametrize(("gigabytes", "said"), [(16.06, True), (0.01, False)])
def test_what_an_upload_costs_while_the_meter_runs_is_said_where_it_is_much(gigabytes: float, said: bool) -> None:
    model = CASE.workload.model.model_copy(update={"bytes_on_disk": int(gigabytes * 1e9)})
    case = CASE.model_copy(update={"workload": CASE.workload.model_copy(update={"model": model})})
    found = plan(case, [A100], [FAST], budget_usd=20, backends=BACKENDS)
    lines = upload(found, load_of(case).up_bytes, 20.0)
    if not said:
        assert lines == []
        return
    assert lines == [
        "Sending 16.1 GB at 20 Mbit/s (upload_mbit_s in launch.toml) takes 1 h 47 min:",
        f"$3.55 of the ${found.offers[0].cost_expected:,.2f} on lambda A100.",
    ]
    assert found.choice is not None
    assert "sync 1 h 47 min ($3.55)" in phases(found.choice)[0]


def test_where_nothing_fits_what_the_hours_of_the_nearest_rest_on_is_said_with_their_range() -> None:
    found = plan(CASE, [A100, A10], [], budget_usd=1, backends=BACKENDS)
    nothing, nearest = decision(found, CASE)
    assert nothing == "Nothing fits."
    assert nearest.startswith("The nearest, lambda A100: about 2 h 07 min of training (76 min to 4 h 14 min). ")
    assert "Rests on: 312 TFLOP/s by the data sheet of A100" in nearest
    assert "35% of it assumed; no run on one yet." in nearest
    run = plan(CASE, [A100], [FAST.model_copy(update={"low": 0.8, "high": 1.4})], budget_usd=1, backends=BACKENDS)
    assert "Rests on: a run." in decision(run, CASE)[1]
    unmeasured = A100.model_copy(update={"gpu": "card"})
    assert decision(plan(CASE, [unmeasured], [], budget_usd=1, backends=BACKENDS), CASE) == ["Nothing fits."]


def test_before_money_is_spent_all_is_said_in_80_columns_and_a_free_run_is_two_sentences() -> None:
    found = planned(A100, CPU, A10, budget=20)
    lines = before_asking(found, CASE, 20.0)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith(">") for line in lines) == 1
    text = " ".join(lines)
    for said in (found.chosen and found.chosen.reason, "Time: boot", "Rests on: ", *table(found)):
        assert said
        assert said in text
    free = plan(CASE, [CPU], [RATE])
    assert before_asking(free, CASE, 20.0) == [sentence(free, CASE), free.chosen and free.chosen.reason]


def test_what_is_free_says_no_dollars() -> None:
    found = planned(CPU, budget=None)
    assert found.choice is not None
    assert "$" not in " ".join(phases(found.choice))
    assert upload(found, 10**10, 20.0) == []


def test_an_upload_without_an_expected_cost_is_not_said() -> None:
    unknown = PricedOffer(
        offer=A10, option=CASE.options[0], steps=1, hours_expected=None, hours_affordable=None, cost_expected=None,
        cost_worst=None, basis="", fits=False, why_not=(WhyNot(code="unmeasured", need="", have=""),),
        phases=(Phase(name="sync", hours_low=1, hours_expected=1, hours_high=1, cost_expected=1),),
    )  # fmt: skip
    one = Plan(requirement="m", budget_usd=1, budget_needed_usd=None, steps=1, steps_total=1, partial=False,
               offers=(unknown,), chosen=None)  # fmt: skip
    assert upload(one, 1, 20.0) == []
