"""Properties of `plan()` with money: over machines that are rented, whatever they cost and whatever is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import gpus
from jobs.clouds import CLOUDS
from jobs.offer import Offer, Plan, PricedOffer, Rate
from launcher.planning import plan
from tests.unit.launcher.test_planning import CASE, CPU, RATE
from train.requirement import Requirement

BACKENDS = frozenset({"local", "lambda", "aws"})
A10 = Offer(cloud="lambda", instance_type="gpu_1x_a10", region="us-east-1", gpus=1, gpu="A10", vram_gib=22.5,
            ram_gib=200, price_per_hour=1.29)  # fmt: skip
A100 = A10.model_copy(update={"instance_type": "gpu_1x_a100", "gpu": "A100", "vram_gib": 40.0, "price_per_hour": 1.99})
FAST = Rate(device="cuda", name="A100", precision="bf16", flop_per_s=1.2e14, basis="a run", source="run",
            measured_at=datetime(2026, 11, 1, tzinfo=UTC))  # fmt: skip
SLOW = FAST.model_copy(update={"name": "A10", "flop_per_s": 4e13})


def planned(*offers: Offer, budget: float | None = 5.0, **more: object) -> Plan:
    return plan(CASE, offers, [FAST, SLOW, RATE], budget_usd=budget, backends=BACKENDS, **more)  # type: ignore[arg-type]


def fitting(found: Plan) -> list[PricedOffer]:
    return [priced for priced in found.offers if priced.fits]


def test_the_price_is_made_of_phases_and_rounded_up_to_what_the_cloud_bills() -> None:
    choice = planned(A100).choice
    assert choice is not None
    assert [phase.name for phase in choice.phases] == [
        "boot", "sync", "training", "pull", "teardown", "billing_unit",
    ]  # fmt: skip
    hours = sum(phase.hours_expected or 0 for phase in choice.phases)
    minutes = hours * 60
    assert minutes == pytest.approx(round(minutes))  # Lambda bills whole minutes
    assert choice.cost_expected == pytest.approx(hours * 1.99)
    training = next(phase for phase in choice.phases if phase.name == "training")
    assert training.hours_expected == pytest.approx(16968 * 4.9e13 / 1.2e14 / 3600)


def test_the_worst_cost_is_the_last_whole_minute_within_the_budget() -> None:
    choice = planned(A100).choice
    assert choice is not None
    assert choice.cost_worst is not None
    assert 5.0 - 1.99 / 60 < choice.cost_worst <= 5.0


def test_a_cheaper_hour_that_takes_longer_is_not_cheaper() -> None:
    choice = planned(A10, A100, budget=50).choice
    assert choice is not None
    assert choice.offer.gpu == "A100"  # 3 times as fast at 1.5 times the price


def test_a_part_is_what_the_money_buys_and_its_schedule_ends_there() -> None:
    whole, part = planned(A100, budget=2.0), planned(A100, budget=2.0, partial=True)
    assert whole.chosen is None
    assert part.choice is not None
    assert 0 < part.steps < part.steps_total  # type: ignore[operator]
    assert part.chosen is not None
    assert "trains the most steps for the budget" in part.chosen.reason
    assert part.partial
    assert part.choice.cost_expected <= 2.0  # type: ignore[operator]
    one_more = 4.9e13 / 1.2e14 / 3600 * 1.99
    assert part.choice.cost_expected > 2.0 - one_more - 1.99 / 60  # type: ignore[operator]


def test_where_the_whole_job_does_not_fit_the_budget_that_would_do_is_known() -> None:
    found = planned(A100, budget=1.0)
    assert found.chosen is None
    assert found.budget_needed_usd is not None
    assert planned(A100, budget=found.budget_needed_usd).chosen is not None
    assert planned(A100, budget=found.budget_needed_usd - 0.04).chosen is None


def test_the_budget_that_would_do_is_for_what_can_be_rented_and_is_in_time_where_there_is_such() -> None:
    cheap = A10.model_copy(update={"price_per_hour": 0.2})  # 5.8 hours
    elsewhere = A100.model_copy(update={"cloud": "elsewhere", "price_per_hour": 1.0})
    whole = planned(A100, budget=1.0).budget_needed_usd
    assert planned(A100, cheap, elsewhere, budget=1.0, within_hours=3).budget_needed_usd == whole
    late = planned(cheap, elsewhere, budget=0.5, within_hours=3).budget_needed_usd
    assert late == planned(cheap, budget=0.5).budget_needed_usd
    assert planned(elsewhere, budget=0.5).budget_needed_usd is not None


def test_a_machine_of_16_bit_weights_without_a_base_on_the_hub_pays_for_their_upload() -> None:
    model = CASE.workload.model.model_copy(update={"bytes_on_disk": 16 * 10**9})
    case = CASE.model_copy(update={"workload": CASE.workload.model_copy(update={"model": model})})
    sync = [
        next(phase for phase in priced.phases if phase.name == "sync")
        for priced in plan(case, [A100], [FAST], budget_usd=9, backends=BACKENDS, upload_bytes_per_s=2.5e6).offers
    ]
    assert sync[0].hours_expected == pytest.approx(16e9 / 2.5e6 / 3600)
    assert sync[0].cost_expected == pytest.approx(16e9 / 2.5e6 / 3600 * 1.99)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"arch": "arm64", "gpu": "GH200", "vram_gib": 96.0}, "arch"),
        ({"spot": True}, "spot"),
        ({"gpus": 4, "vram_gib": 9.0}, "vram"),
        ({"ram_gib": 8.0}, "ram"),
        ({"cloud": "elsewhere"}, "backend"),
        ({"capacity": False}, "capacity"),
    ],
)
def test_what_a_machine_lacks_is_said(change: dict[str, object], code: str) -> None:
    found = planned(A100.model_copy(update=change))
    assert found.chosen is None
    assert code in {gap.code for priced in found.offers for gap in priced.why_not}


def in_bf16(case: Requirement) -> Requirement:
    trainer = case.options[0].trainer.model_copy(update={"precision": "bf16"})
    return case.model_copy(
        update={"options": tuple(option.model_copy(update={"trainer": trainer}) for option in case.options)}
    )


def test_16_bits_run_on_a_gpu_without_bf16_and_bf16_does_not() -> None:
    turing = A100.model_copy(update={"gpu": "RTX6000", "vram_gib": 24.0})
    rate = FAST.model_copy(update={"name": "RTX6000", "precision": "fp16", "flop_per_s": 6e13})
    assert plan(CASE, [turing], [rate], budget_usd=50, backends=BACKENDS).chosen is not None
    found = plan(in_bf16(CASE), [turing], [rate], budget_usd=50, backends=BACKENDS)
    assert {gap.code for gap in found.offers[0].why_not} >= {"precision"}


def test_a_gpu_older_than_what_the_trainers_environments_have_kernels_for_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "OLDEST", (7, 5))  # the table has no GPU older than Volta
    v100 = A100.model_copy(update={"gpu": "V100", "vram_gib": 16.0, "cloud": "aws", "instance_type": "p3.2xlarge"})
    found = plan(CASE, [v100], [], budget_usd=50, backends=BACKENDS)
    assert found.chosen is None
    gaps = {gap.code: gap for gap in found.offers[0].why_not}
    assert (gaps["arch"].need, gaps["arch"].have) == ("compute capability 7.5", "7.0 (V100)")
    assert all("fp16" not in gap.need for gap in gaps.values())  # in 16 bits a V100 would do


offers = st.builds(
    Offer,
    cloud=st.sampled_from(["local", "lambda", "aws"]),
    instance_type=st.sampled_from(["a", "b", "c"]),
    region=st.sampled_from(["x", "y"]),
    gpus=st.integers(1, 4),
    gpu=st.sampled_from(["A100", "A10", "V100", "card"]),
    vram_gib=st.sampled_from([9.0, 16.0, 40.0, 80.0]),
    ram_gib=st.sampled_from([16.0, 64.0, None]),
    spot=st.booleans(),
    price_per_hour=st.floats(0.05, 40),
)
budgets = st.floats(0.05, 200)


@given(st.lists(offers, max_size=6), budgets, st.booleans(), st.randoms())
def test_what_is_chosen_fits_and_neither_its_expected_nor_its_worst_cost_is_above_the_budget(
    found: list[Offer], budget: float, partial: bool, random: Random
) -> None:
    first = planned(*found, budget=budget, partial=partial)
    for priced in fitting(first):
        assert priced.cost_expected is not None
        assert priced.cost_worst is not None
        assert priced.cost_expected <= priced.cost_worst <= budget
        assert priced.option.min_vram_gib <= priced.offer.vram_gib
        assert not priced.offer.spot
        assert priced.steps > 0
    assert (first.choice is not None) == bool(fitting(first))
    assert first.choice is None or first.choice.fits
    random.shuffle(found)
    assert planned(*found, budget=budget, partial=partial) == first


@given(st.lists(offers, max_size=6), st.none() | budgets, st.booleans())
def test_the_choice_alone_is_that_of_the_whole_plan(found: list[Offer], budget: float | None, partial: bool) -> None:
    whole = planned(*found, CPU, budget=budget, partial=partial)
    alone = planned(*found, CPU, budget=budget, partial=partial, choice_alone=True)
    assert alone.choice == whole.choice
    assert alone.model_copy(update={"offers": whole.offers}) == whole


@given(st.lists(offers, max_size=4), budgets, st.floats(0, 100), st.booleans())
def test_more_budget_never_gets_less(found: list[Offer], budget: float, more: float, partial: bool) -> None:
    less = planned(*found, budget=budget, partial=partial)
    richer = planned(*found, budget=budget + more, partial=partial)
    if less.choice is not None:
        assert richer.choice is not None
        assert richer.choice.steps >= less.choice.steps
        if not partial:
            assert richer.choice.cost_expected <= less.choice.cost_expected  # type: ignore[operator]


@given(st.lists(offers, min_size=1, max_size=4), st.floats(0.1, 0.99), budgets)
def test_a_cheaper_machine_never_loses_to_a_dearer_one_of_its_kind(
    found: list[Offer], share: float, budget: float
) -> None:
    dear = found[0]
    cheap = dear.model_copy(update={"price_per_hour": dear.price_per_hour * share, "region": "z"})
    choice = planned(*found, cheap, budget=budget).choice
    assert choice is None or choice.offer != dear


@given(st.sampled_from(["lambda", "aws"]), st.floats(0.01, 50), st.floats(0.01, 500))
def test_the_hours_of_a_budget_are_never_billed_above_it(cloud: str, price: float, usd: float) -> None:
    hours = CLOUDS[cloud].hours_for(usd, price)
    assert hours * price <= usd
    assert hours == 0 or CLOUDS[cloud].billed_hours(hours) == pytest.approx(hours)


def test_this_machine_is_one_of_the_offers_at_no_cost() -> None:
    choice = planned(A100, CPU, budget=5, within_hours=1000).choice
    assert choice is not None
    assert (choice.offer.cloud, choice.cost_expected, choice.cost_worst) == ("local", 0.0, 0.0)
