"""The life of a job, with real processes."""

from __future__ import annotations

import io
import json
import os
import signal

import psutil
import pytest
from rich.console import Console

from artifacts.errors import LaunchError, LeaseLost, UsageProblem
from jobs import driver, pull
from jobs.job import Outcome, State
from launcher import live
from launcher.documents import status_document
from launcher.status_view import in_full, overview


def test_a_job_walks_the_line_and_its_results_are_whole_at_home(bench):
    job = bench.job({"displaced_at": 3}, test=bench.folder / "train.jsonl")
    done = bench.run(job)
    assert (done.state, done.outcome, done.error) == (State.DONE, Outcome.SUCCEEDED, None), bench.log(job)
    results = job.spec.results
    expected = {
        "requirement.json", "plan.json", "run.json", "data.json", "end.json", "adapter", "adapter_last", "checkpoint",
        "metrics.jsonl", "eval.json", "logs", "manifest.json", "cost.json", "report.html",
    }  # fmt: skip
    assert {path.name for path in results.iterdir()} == expected
    assert pull.results_are_whole(results)
    assert not {"cost.json", "report.html"} & set(json.loads((results / "manifest.json").read_text())["files"])
    assert [state for _, state, _ in bench.store.moves(job.id)] == [
        "provisioning", "syncing", "training", "evaluating", "pulling", "tearing_down", "ended",
    ]  # fmt: skip
    assert done.progress is not None
    assert (done.progress.step, done.progress.max_steps) == (4, 4)
    assert [(item.code, item.command) for item in done.attention] == [("displaced", f"launch logs {job.id}")]
    screen = Console(width=80, file=io.StringIO())
    screen.print(live.panel(bench.home, done))
    assert "chosen falls" in screen.file.getvalue()
    assert f"! displaced: launch logs {job.id}" in screen.file.getvalue()
    assert json.loads((results / "cost.json").read_text())["rows"][0]["cost_usd"] == 0
    assert json.loads((results / "run.json").read_text())["lock"].startswith("python:")


def test_a_job_of_another_method_runs_its_trainer_and_what_that_does_not_measure_is_shown_nowhere(bench):
    job = bench.job({}, method="sft")
    done = bench.run(job)
    assert (done.id, done.outcome, done.error) == ("sft-1", Outcome.SUCCEEDED, None), bench.log(job)
    (row,) = status_document([done], {})["jobs"]
    assert (row["method"], row["reward_margin"]) == ("sft", None)
    assert row["loss"] == pytest.approx(0.7 / 4)
    page = (job.spec.results / "report.html").read_text()
    assert "sft-1, SFT on " in page
    assert page.count("<svg") == 2
    for absent in ("Reward", "margin, last", "accuracy", '<i style="background:#64748b"></i>rejected'):
        assert absent not in page
    screen = Console(width=80, file=io.StringIO())
    screen.print(live.panel(bench.home, done))
    shown = screen.file.getvalue()
    assert "loss" in shown
    assert not {"margin", "chosen"} & set(shown.split())
    told = [*in_full(done, {}, bench.home), *overview([done], {})]
    assert "method     SFT" in told
    assert not any(line.startswith("margin") for line in told)


def test_a_driver_outlives_its_starter_and_there_is_one(bench):
    job = bench.job({"hold_at": 2})
    pid = bench.spawn(job)
    bench.at_step(job, 2)
    assert os.getsid(pid) != os.getsid(0)
    assert driver.alive(bench.home, job.id)
    with pytest.raises(LaunchError, match="did not start") as caught:
        bench.spawn(job)
    assert "has a driver already" in str(caught.value)


def _whole_run(bench):
    return bench.weights(bench.run(bench.job({})))


@pytest.mark.parametrize("state", ["training", "evaluating"])
def test_a_killed_driver_ends_its_trainer_and_resume_ends_in_the_same_adapter(bench, state):
    reference = _whole_run(bench)
    held = {"hold_at": 2} if state == "training" else {"evaluation": "holds"}
    job = bench.job(held, test=bench.folder / "train.jsonl")
    pid = bench.spawn(job)
    bench.until(job, lambda now: now.state == state and (bench.home.job(job.id) / "trainer.json").exists(), state)
    if state == "training":
        bench.at_step(job, 2)
    lost = bench.kill(pid, job)
    assert (lost.state, lost.outcome) == (state, None)
    assert [one.id for one in driver.reconcile(bench.home, bench.store)] == [job.id]
    attention = bench.store.job(job.id).attention[0]
    assert (attention.code, attention.command) == ("driver_lost", f"launch resume {job.id}")

    bench.behave({})
    done = bench.run(bench.store.reopen(job.id, job.created_at))
    assert done.outcome is Outcome.SUCCEEDED, bench.log(job)
    assert done.attention == ()
    assert [(one.number, one.state, one.failure) for one in done.attempts] == [
        (1, State.ENDED, "its driver was lost"),
        (2, State.ENDED, None),
    ]
    assert bench.weights(done) == reference
    assert not (bench.home.work(job.id) / "two_at_once").exists()
    assert (job.spec.results / "eval.json").exists()


@pytest.mark.parametrize("mode", ["pull_first", "now"])
def test_cancel_brings_the_last_checkpoint_home_first_unless_now(bench, mode):
    job = bench.job({"hold_at": 2})
    bench.spawn(job)
    bench.at_step(job, 2)
    bench.store.request_cancel(job.id, mode)
    done = bench.finished(job)
    assert (done.state, done.outcome) == (State.DONE, Outcome.CANCELLED), bench.log(job)
    assert (job.spec.results / "checkpoint" / "trainer_state.json").exists() == (mode == "pull_first")


def test_cancel_of_a_job_whose_driver_was_lost_brings_home_what_there_is(bench):
    job = bench.job({"hold_at": 2})
    pid = bench.spawn(job)
    bench.at_step(job, 2)
    bench.kill(pid, job)
    bench.store.request_cancel(job.id, "pull_first")
    done = bench.run(job)
    assert done.outcome is Outcome.CANCELLED, bench.log(job)
    assert pull.results_are_whole(job.spec.results)


def test_a_trainer_that_fails_says_why_and_its_results_so_far_come_home(bench):
    job = bench.job({"fail_at": 3})
    done = bench.run(job)
    assert done.outcome is Outcome.FAILED
    assert "the pairs were not good" in (done.error or "")
    assert json.loads((job.spec.results / "checkpoint" / "trainer_state.json").read_text()) == {"step": 3}
    assert pull.results_are_whole(job.spec.results)


def test_a_killed_trainer_fails_the_job_and_resume_goes_on_from_the_checkpoint(bench):
    reference = _whole_run(bench)
    job = bench.job({"hold_at": 3})
    bench.spawn(job)
    bench.at_step(job, 3)
    os.kill(json.loads((bench.home.job(job.id) / "trainer.json").read_text())["pid"], signal.SIGKILL)
    failed = bench.finished(job)
    assert failed.outcome is Outcome.FAILED
    assert "SIGKILL" in (failed.error or "")
    assert f"launch resume {job.id}" in (failed.error or "")
    bench.behave({})
    done = bench.run(bench.store.reopen(job.id, job.created_at))
    assert done.outcome is Outcome.SUCCEEDED, bench.log(job)
    assert bench.weights(done) == reference


@pytest.mark.parametrize(("checkpoints", "outcome"), [(True, Outcome.BUDGET_STOPPED), (False, Outcome.FAILED)])
def test_a_deadline_is_a_result_only_with_a_checkpoint(bench, checkpoints, outcome):
    done = bench.run(bench.job({"reason": "deadline", "checkpoints": checkpoints}))
    assert done.outcome is outcome, bench.log(done)


def test_an_evaluation_that_fails_does_not_fail_the_job(bench):
    done = bench.run(bench.job({"evaluation": "fails"}, test=bench.folder / "train.jsonl"))
    assert done.outcome is Outcome.SUCCEEDED
    assert "The evaluation gave no result" in (done.spec.results / "report.html").read_text()


@pytest.mark.parametrize(("reason", "earned"), [("finished", Outcome.SUCCEEDED), ("deadline", Outcome.BUDGET_STOPPED)])
def test_results_that_cannot_come_home_are_kept_and_pull_brings_them(bench, reason, earned):
    job = bench.job({"reason": reason})
    job.spec.results.parent.mkdir()
    job.spec.results.write_text("in the way")
    done = bench.run(job)
    assert done.outcome is Outcome.FAILED
    assert f"launch pull {job.id}" in (done.error or "")
    with pytest.raises(UsageProblem, match="not whole"):
        pull.remove(bench.home, bench.store, done)
    job.spec.results.unlink()
    pull.pull(bench.home, bench.store, done)
    assert pull.results_are_whole(job.spec.results)
    settled = bench.store.job(job.id)
    assert (settled.state, settled.outcome, settled.error) == (State.DONE, earned, None)
    assert "could not be brought" in (settled.attempts[-1].failure or "")
    assert f'class="badge {earned}"' in (job.spec.results / "report.html").read_text()
    assert json.loads((job.spec.results / "cost.json").read_text())["rows"][0]["settled"]
    pull.pull(bench.home, bench.store, done)
    pull.remove(bench.home, bench.store, done)
    assert not bench.home.job(job.id).exists()
    assert bench.store.jobs() == []
    assert [row.job for row in bench.store.ledger()] == [job.id]


def test_a_pull_does_not_make_a_failed_training_succeed(bench):
    job = bench.job({"fail_at": 3})
    failed = bench.run(job)
    pull.pull(bench.home, bench.store, failed)
    after = bench.store.job(job.id)
    assert (after.outcome, after.error) == (Outcome.FAILED, failed.error)


def test_sigterm_to_the_driver_ends_the_trainer_well_and_leaves_the_job_to_resume(bench):
    job = bench.job({"hold_at": 2})
    pid = bench.spawn(job)
    bench.at_step(job, 2)
    os.kill(pid, signal.SIGTERM)
    left = bench.finished(job)
    assert (left.state, left.outcome) == (State.TRAINING, None)
    assert json.loads((bench.home.work(job.id) / "end.json").read_text())["reason"] == "signal"


def test_a_trainer_that_ignores_everything_is_ended_by_the_next_driver(bench):
    from jobs.backends.local import LocalBackend, running_on_this_machine

    job = bench.job({"hold_at": 1, "deaf": True})
    pid = bench.spawn(job)
    bench.at_step(job, 1)
    bench.kill(pid, job)
    trainer = psutil.Process(json.loads((bench.home.job(job.id) / "trainer.json").read_text())["pid"])
    assert trainer.is_running()
    backend = LocalBackend(bench.home, job.spec, leftover_grace_s=0.1)
    assert running_on_this_machine(bench.home) == [job.id]
    backend.end_leftovers()
    assert running_on_this_machine(bench.home) == []


def test_changed_data_is_refused_at_a_resume(bench):
    job = bench.job({"fail_at": 2})
    bench.run(job)
    (bench.folder / "train.jsonl").write_text('{"other": 1}\n')
    bench.behave({})
    done = bench.run(bench.store.reopen(job.id, job.created_at))
    assert done.outcome is Outcome.FAILED
    assert "has changed since" in (done.error or "")


def test_missing_input_fails_the_job_with_its_name(bench):
    job = bench.job({})
    (bench.folder / "train.jsonl").unlink()
    done = bench.run(job)
    assert done.outcome is Outcome.FAILED
    assert "train.jsonl cannot be read" in (done.error or "")


def test_a_driver_that_was_replaced_writes_nothing(bench):
    job = bench.job({"hold_at": 2})
    bench.spawn(job)
    bench.at_step(job, 2)
    newer = bench.store.as_driver(job.id, bench.store.take_lease(job.id))
    left = bench.finished(job)
    assert left.state is State.TRAINING
    assert "Another driver has taken over" in bench.log(job)
    newer.clear_attention("driver_lost")
    with pytest.raises(LeaseLost):
        bench.store.as_driver(job.id, 1).clear_attention("driver_lost")
