"""`plan()` on this machine: what fits, what is chosen, and why."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.offer import Offer, Rate
from launcher.planning import plan
from train.requirement import Requirement, Source

WHEN = datetime(2026, 11, 1, tzinfo=UTC)

# The real case: 8,484 pairs, two epochs, batch 1; its option figures are its own placeholders.
CASE = Requirement.model_validate(
    {
        "schema": "hardware-requirement/1",
        "workload": {
            "model": {"base": {"path": "/m"}, "adapter": {"path": "/m"}, "architecture": "LlamaForCausalLM"},
            "data": {"train_path": "/t.jsonl", "train_examples": 8484},
            "training": {"epochs": 2, "batch_size": 1, "max_length": 512},
        },
        "options": [
            {"name": "16bit-lora", "device": "cuda", "gpus": 1, "min_vram_gib": 18.0, "min_ram_gib": 24.0,
             "flop_per_step": 4.9e13, "trainer": {"precision": "16bit"}},
            {"name": "nf4-qlora", "device": "cuda", "gpus": 1, "min_vram_gib": 9.5, "min_ram_gib": 24.0,
             "flop_per_step": 4.9e13, "trainer": {"precision": "16bit", "quantization": "nf4"}},
            {"name": "cpu", "device": "cpu", "gpus": 0, "min_ram_gib": 20.0, "flop_per_step": 3.3e13,
             "trainer": {"precision": "bf16"}},
        ],
    }
)  # fmt: skip
CPU = Offer(cloud="local", instance_type="box (CPU)", ram_gib=32, disk_gib=200, cores=8)
RTX_5070 = CPU.model_copy(update={"instance_type": "box", "gpus": 1, "gpu": "RTX 5070", "vram_gib": 11.9})
A100 = RTX_5070.model_copy(update={"gpu": "A100", "vram_gib": 40.0})
RATE = Rate(device="cpu", name="box", precision="bf16", flop_per_s=1e12, basis="measured", measured_at=WHEN)


def test_without_a_gpu_the_real_case_is_848_steps_of_8484_with_its_hours() -> None:
    found = plan(CASE, [CPU], [RATE])
    assert found.choice is not None
    assert (found.steps, found.steps_total, found.partial) == (848, 16968, True)
    assert found.choice.hours_expected == pytest.approx(848 * 33 / 3600)
    assert found.choice.cost_expected == 0


def test_a_12_gb_gpu_runs_all_of_it_in_4_bit() -> None:
    found = plan(CASE, [CPU, RTX_5070], [RATE])
    assert found.choice is not None
    assert (found.choice.option.name, found.steps, found.partial) == ("nf4-qlora", 16968, False)


def test_of_two_options_that_fit_a_gpu_the_one_that_gives_up_less_precision_is_taken() -> None:
    found = plan(CASE, [CPU, A100], [])
    assert found.choice is not None
    assert found.choice.option.name == "16bit-lora"


def test_a_gpu_that_is_too_small_leaves_the_cpu_and_the_reason_says_so() -> None:
    small = RTX_5070.model_copy(update={"vram_gib": 8.0})
    found = plan(CASE, [CPU, small], [])
    assert found.choice is not None
    assert found.choice.option.name == "cpu"
    assert "8.0 GiB" in found.chosen.reason  # type: ignore[union-attr]


def test_four_gpus_of_8_gb_hold_8_gb_a_process() -> None:
    four = RTX_5070.model_copy(update={"gpus": 4, "vram_gib": 8.0})
    found = plan(CASE, [four], [])
    assert found.choice is None
    assert {gap.code for priced in found.offers for gap in priced.why_not} == {"vram"}


@pytest.mark.parametrize(("batch_size", "code"), [(1, "batch"), (6, "batch"), (8, None)])
def test_an_option_with_four_gpus_fits_four_where_the_batch_can_be_shared(batch_size: int, code: str | None) -> None:
    four = RTX_5070.model_copy(update={"gpus": 4})
    training = CASE.workload.training.model_copy(update={"batch_size": batch_size})
    option = CASE.options[1].model_copy(update={"name": "nf4-qlora-x4", "gpus": 4})
    workload = CASE.workload.model_copy(update={"training": training})
    case = CASE.model_copy(update={"workload": workload, "options": (option,)})
    (only,) = plan(case, [four], []).offers
    assert only.fits == (code is None)
    assert [gap.code for gap in only.why_not] == ([] if code is None else [code])


def test_too_little_memory_fits_nothing_and_says_what_is_needed() -> None:
    found = plan(CASE, [CPU.model_copy(update={"ram_gib": 16.0})], [])
    assert found.chosen is None
    (only,) = found.offers
    assert (only.why_not[0].code, only.why_not[0].need, only.why_not[0].have) == ("ram", "20.0 GiB", "16.0 GiB")


@pytest.mark.parametrize(
    ("base", "cloud", "fits"),
    [
        ({"path": "/m"}, "local", True),
        ({"path": "/m/config.json"}, "local", False),
        ({"hub_id": "org/m"}, "local", False),
        ({"path": "/m"}, "lambda", False),
    ],
)
def test_weights_that_lie_on_this_machine_need_no_room_on_it_again(
    base: dict[str, str], cloud: str, fits: bool
) -> None:
    """30 GiB for the model's 15, the environment and the checkpoints, on a disk of 20."""
    model = CASE.workload.model.model_copy(
        update={"base": Source(**base), "parameters": 8_030_261_248, "bytes_on_disk": 16_060_522_496}
    )
    option = CASE.options[2].model_copy(update={"min_disk_gib": 30.0})
    if cloud != "local":
        option = CASE.options[1].model_copy(update={"min_disk_gib": 30.0})
    workload = CASE.workload.model_copy(update={"model": model})
    case = CASE.model_copy(update={"workload": workload, "options": (option,)})
    machine = CPU.model_copy(update={"disk_gib": 20.0})
    if cloud != "local":
        machine = A100.model_copy(update={"cloud": cloud, "disk_gib": 20.0, "price_per_hour": 1.0})
    (only,) = plan(case, [machine], [RATE], budget_usd=None if cloud == "local" else 50).offers
    assert ("disk" not in {gap.code for gap in only.why_not}) == fits


def test_hours_that_nobody_measured_are_unknown() -> None:
    found = plan(CASE, [CPU], [])
    assert found.choice is not None
    assert found.choice.hours_expected is None


def test_steps_can_be_set() -> None:
    found = plan(CASE, [CPU], [RATE], max_steps=50)
    assert (found.steps, found.partial) == (50, True)


def test_within_blocks_a_budgeted_run_and_never_a_free_one() -> None:
    slow = RATE.model_copy(update={"flop_per_s": 1e9})
    assert plan(CASE, [CPU], [slow], within_hours=1).chosen is not None
    budgeted = plan(CASE, [CPU], [slow], within_hours=1, budget_usd=5)
    assert budgeted.chosen is None
    assert budgeted.offers[0].why_not[0].code == "within"


def test_without_a_budget_nothing_that_costs_is_even_an_offer() -> None:
    rented = A100.model_copy(update={"cloud": "lambda", "price_per_hour": 1.99})
    found = plan(CASE, [rented, CPU], [], cloud="lambda")
    assert {priced.offer.cloud for priced in found.offers} == {"local"}


offers = st.builds(
    Offer,
    cloud=st.sampled_from(["local", "lambda"]),
    instance_type=st.sampled_from(["a", "b", "c"]),
    gpus=st.integers(0, 4),
    gpu=st.just("card"),
    vram_gib=st.floats(0, 96),
    ram_gib=st.floats(1, 512),
    disk_gib=st.floats(1, 4000),
    price_per_hour=st.just(0.0) | st.floats(0.01, 40),
)
rates = st.lists(
    st.builds(
        Rate,
        device=st.sampled_from(["cpu", "cuda"]),
        name=st.just("x"),
        precision=st.sampled_from(["bf16", "fp32"]),
        flop_per_s=st.floats(1e9, 1e15),
        basis=st.just("measured"),
        measured_at=st.just(WHEN),
    ),
    max_size=1,
)


@given(st.lists(offers, max_size=6, unique_by=str), rates, st.none() | st.floats(0.1, 1000), st.randoms())
def test_what_is_chosen_fits_costs_no_more_than_the_budget_and_does_not_depend_on_the_order(
    found: list[Offer], known: list[Rate], budget: float | None, random: object
) -> None:
    first = plan(CASE, found, known, budget_usd=budget)
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(CASE, shuffled, known, budget_usd=budget) == first
    fitting = [priced for priced in first.offers if priced.fits]
    if first.choice is None:
        assert not fitting
        return
    assert first.choice.fits
    assert first.choice.cost_expected == min(priced.cost_expected for priced in fitting)  # type: ignore[type-var]
    assert first.choice.cost_worst is not None
    assert first.choice.cost_worst <= (budget or 0)
    assert budget is not None or first.choice.offer.cloud == "local"


@given(st.lists(offers, max_size=6), rates, st.floats(0.1, 100), st.floats(0, 100))
def test_more_budget_never_gets_less(found: list[Offer], known: list[Rate], budget: float, more: float) -> None:
    less = plan(CASE, found, known, budget_usd=budget)
    assert less.chosen is None or plan(CASE, found, known, budget_usd=budget + more).chosen is not None
