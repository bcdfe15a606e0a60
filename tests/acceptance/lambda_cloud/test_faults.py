"""What goes wrong between the create call and the ledger: said, survived or ended, and nothing is left running.

The driver is a thread of the test and the task goes over by SSH (by_ssh.py); API, machines, guard, transfer and
trainer are real. What needs SkyPilot is in test_kills.py and test_skypilot.py.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from artifacts.errors import StoreFailed
from jobs import pull
from jobs.guard import PUBLISHED
from jobs.job import Outcome
from jobs.store import Store
from tests.acceptance.lambda_cloud.by_ssh import NEVER, HastyClock, InTest
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.faults import QUOTA
from tests.acceptance.lambda_cloud.provider import SECOND_KEY
from tests.acceptance.lambda_cloud.renter import LINE, agrees_with_the_meter, make_renter, record_of
from tests.acceptance.processes import end_all
from tests.acceptance.program import Program, edit_requirement, without_test_data
from tests.acceptance.waiting import until

pytestmark = pytest.mark.filterwarnings("default")  # paramiko's and fabric's own

Rent = Callable[..., InTest]


@pytest.fixture
def program(
    cloud: Cloud, tmp_path: Path, demo_project: Path, warm_state: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Program]:
    made = make_renter(cloud, tmp_path, demo_project, warm_state)
    without_test_data(made.folder)  # the name line's test has the evaluation
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)  # the driver is in this process
    yield made
    end_all(tmp_path)


@pytest.fixture
def rent(program: Program, cloud: Cloud, tmp_path: Path) -> Iterator[Rent]:
    """Records a job of `program`, or of another `renter`, and is its driver."""
    made: list[InTest] = []
    log = tmp_path / "drivers.log"
    log.touch()

    def one(*words: str, renter: Program = program, **options: object) -> InTest:
        number = 1 + sum(each.program is renter for each in made)
        made.append(InTest(renter, cloud, log, *words, number=number, **options))  # type: ignore[arg-type]
        return made[-1]

    yield one
    cloud.provider.reset()  # whatever a driver waits for ends with its machine
    for each in made:
        each.close()


def succeeded(job: InTest, *, machines: int = 1) -> None:
    row = job.program.job(job.job_id)
    assert row["outcome"] == "succeeded", job.log()
    assert row["attention"] == []
    assert pull.results_are_whole(Path(row["results"]))
    assert len({request.body["name"] for request in job.cloud.api.creates()}) == machines
    agrees_with_the_meter(job.program, job.cloud)


def failed(job: InTest, *words: str) -> None:
    row = job.program.job(job.job_id)
    assert row["outcome"] == "failed"
    for word in words:
        assert word in row["error"], row["error"]
    agrees_with_the_meter(job.program, job.cloud)


def cancelled(job: InTest, ended: Future[Outcome], *words: str) -> None:
    cancel = job.program.start("cancel", job.job_id, *words)  # which waits for the driver's end
    assert ended.result(timeout=240) is Outcome.CANCELLED
    job.close()
    _, said = cancel.communicate(timeout=60)
    assert cancel.returncode == 0, said


# ---- the create call ----


def test_a_create_that_answers_500_and_worked_is_one_machine_though_the_list_lags(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next("launch", answer=500, though_it_works=True, list_lag_s=6)
    job = rent()
    assert job.run() is Outcome.SUCCEEDED
    assert len(cloud.api.creates()) == 1
    succeeded(job)


@pytest.mark.full
def test_a_create_whose_answer_is_cut_off_is_one_machine(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next("launch", cut=True, though_it_works=True)
    job = rent()
    assert job.run() is Outcome.SUCCEEDED
    succeeded(job)


@pytest.mark.full
def test_a_create_that_answers_500_and_did_nothing_ends_in_another_machine(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next("launch", answer=500)
    job = rent(clock=HastyClock(10))
    assert job.run() is Outcome.SUCCEEDED
    assert job.program.job("dpo-1")["attempt"] == 2
    assert cloud.provider.everything() == []


def test_a_slow_api_that_limits_rates_and_fails_now_and_then_is_waited_for(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next("instances", answer=429, times=4)
    cloud.faults.next("instances", delay_s=3, times=2)
    cloud.faults.next("instances", answer=503, times=2)
    cloud.faults.next("instance-types", answer=502)
    cloud.faults.next("terminate", answer=500)
    job = rent()
    assert job.run() is Outcome.SUCCEEDED
    succeeded(job)


def test_a_machine_that_is_unhealthy_is_ended_and_the_next_offer_is_tried(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next_boot(unhealthy=True)
    job = rent()
    assert job.run() is Outcome.SUCCEEDED
    succeeded(job, machines=2)
    first, second = job.program.document("cost")["rows"]
    assert first["cost_usd"] == 0
    assert second["cost_usd"] > 0


def test_a_machine_that_never_boots_is_ended_and_the_next_offer_is_tried(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next_boot(stuck=True)
    job = rent(clock=HastyClock(60))
    assert job.run() is Outcome.SUCCEEDED
    assert "was not active after" in job.log()
    assert job.program.job("dpo-1")["attempt"] == 2
    assert cloud.provider.everything() == []


def test_cancelled_while_the_machine_boots_it_is_ended(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next_boot(stuck=True)
    job = rent()
    ended = job.start()
    until(cloud.provider.everything, "the machine", seconds=60)
    cancelled(job, ended)
    assert cloud.provider.everything() == []
    assert len(cloud.api.creates()) == 1
    (row,) = job.program.document("cost")["rows"]
    assert row["cost_usd"] == 0


def test_a_task_that_is_taken_and_never_begins_ends_the_job_and_the_machine(rent: Rent, cloud: Cloud) -> None:
    job = rent(clock=HastyClock(20))
    job.before_launch = lambda: NEVER
    assert job.run() is Outcome.FAILED
    row = job.program.job("dpo-1")
    assert "has not begun within 5 min" in row["error"]
    assert "SkyPilot says of it: PENDING" in row["error"]
    assert "launch resume dpo-1" in row["error"]
    assert cloud.provider.everything() == []


def test_a_machine_that_nobody_can_log_into_is_ended(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next_boot(no_sshd=True, times=20)
    job = rent(clock=HastyClock(100))
    assert job.run() is Outcome.FAILED
    row = job.program.job("dpo-1")
    assert "cannot be reached by SSH" in row["error"]
    assert cloud.provider.everything() == []


def test_a_machine_that_took_no_user_data_has_another_host_key_and_is_ended(rent: Rent, cloud: Cloud) -> None:
    """It has no deadline either; nothing is sent to it."""
    cloud.faults.next_boot(ignore_user_data=True)
    job = rent()
    assert job.run() is Outcome.SUCCEEDED
    assert "another host key" in job.log()
    succeeded(job, machines=2)


def test_a_price_that_rose_since_the_plan_is_paid_only_within_the_budget(rent: Rent, cloud: Cloud) -> None:
    job = rent("--gpu", "A10")
    cloud.provider.set_type("gpu_1x_a10", price_cents_per_hour=60_000)
    assert job.run() is Outcome.FAILED
    failed(job, "at $600.00 an hour", "buys no training")
    assert cloud.api.creates() == []


def test_a_quota_is_said_in_lambdas_words(rent: Rent, cloud: Cloud) -> None:
    job = rent()
    cloud.faults.next("launch", answer=400, code=QUOTA, message="Quota exceeded.", times=50)
    assert job.run() is Outcome.FAILED
    failed(job, "Quota exceeded")


# ---- while it is there ----


def test_a_connection_cut_in_mid_upload_is_taken_up_again(rent: Rent, cloud: Cloud, program: Program) -> None:
    terms = program.folder / "terms.txt"
    terms.write_bytes(b"".join(b"%064x\n" % (number * 0x9E3779B97F4A7C15 % 2**256) for number in range(400_000)))
    with (program.folder / "launch.toml").open("a") as file:
        file.write('\nterms = "terms.txt"\n')
    edit_requirement(program.folder, ("workload", "training", "steps"), None)
    job = rent()
    ended = job.start()
    job.until_state("syncing")
    machine = job.machine()
    until(
        lambda: (
            "incoming"
            in machine.run(
                ["sh", "-c", "ls -d /home/ubuntu/launch/incoming/.* /home/ubuntu/launch/incoming/* 2>/dev/null"],
                check=False,
            )
        ),
        "an upload",
        seconds=60,
    )
    machine.run(["pkill", "-KILL", "-f", "sshd: ubuntu"], check=False)
    assert ended.result(timeout=180) is Outcome.SUCCEEDED
    succeeded(job)


def test_each_step_is_seen_here_within_ten_seconds(rent: Rent, cloud: Cloud) -> None:
    job = rent("--max-steps", "100")
    metrics = job.home.work("dpo-1") / "metrics.jsonl"
    late: dict[int, float] = {}

    def look() -> bool:
        over = ended.done()
        whole, _, _ = (metrics.read_bytes() if metrics.exists() else b"").rpartition(b"\n")
        for line in map(json.loads, whole.splitlines()):
            if line["kind"] == "train":
                at = datetime.fromisoformat(line["at"])
                late.setdefault(line["step"], (datetime.now(UTC) - at).total_seconds())
        return over

    ended = job.start()
    until(look, "its end", seconds=240, poll_s=0.1)
    assert ended.result() is Outcome.SUCCEEDED
    assert sorted(late) == list(range(1, 101))
    assert max(late.values()) < 10, late
    succeeded(job)


@pytest.mark.full
def test_a_network_that_is_silent_for_a_while_in_training_costs_nothing_but_time(rent: Rent, cloud: Cloud) -> None:
    job = rent("--max-steps", "200")
    ended = job.start()
    job.until_step(3)
    cloud.faults.next("instances", answer=503, times=12)  # this computer's network, Lambda as well
    job.machine().cut()
    until(lambda: "Connection" in job.log() or "reached" in job.log(), "a look that fails", seconds=150)
    job.machine().restore()
    assert ended.result(timeout=240) is Outcome.SUCCEEDED
    succeeded(job)


def test_connections_reset_in_training_and_in_the_pull_are_made_again(rent: Rent, cloud: Cloud) -> None:
    job = rent("--max-steps", "60")
    ended = job.start()
    job.until_step(3)
    job.machine().run(["pkill", "-KILL", "-f", "sshd: ubuntu"])
    job.until_state("pulling", "tearing_down", "done")
    machine = next(iter(cloud.provider.everything()), None)
    if machine is not None:
        machine.machine.run(["pkill", "-KILL", "-f", "sshd: ubuntu"], check=False)  # type: ignore[attr-defined]
    assert ended.result(timeout=180) is Outcome.SUCCEEDED
    succeeded(job)


def test_a_machine_that_dies_in_training_leaves_what_had_come_home(rent: Rent, cloud: Cloud, program: Program) -> None:
    job = rent("--max-steps", "400", "--eval-every", "10")
    ended = job.start()
    work = job.home.work("dpo-1")
    until(lambda: any(work.glob("checkpoints/checkpoint-*")), "a checkpoint at home", seconds=180)
    instance = cloud.provider.everything()[0]
    cloud.provider.terminate(cloud.provider.account(cloud.key), {"instance_ids": [instance.id]})
    assert ended.result(timeout=180) is Outcome.FAILED
    failed(job, "is gone, and nobody here has ended it")
    results = Path(program.job("dpo-1")["results"])
    assert (results / "adapter" / "adapter_model.safetensors").is_file()
    assert (results / "checkpoint").is_dir()
    # `launch resume`: another machine goes on from that checkpoint, within what is left of the budget.
    with Store.open(job.home) as store:
        store.reopen("dpo-1", now=datetime.now(UTC))
    assert job.run() is Outcome.SUCCEEDED
    assert (program.job("dpo-1")["attempt"], program.job("dpo-1")["step"]) == (2, 400)
    assert (
        "goes on" in (results / "logs/trainer.log").read_text() or "resum" in (results / "logs/trainer.log").read_text()
    )
    succeeded(job, machines=2)


def test_a_reboot_in_training_is_followed_by_the_rest_of_it(rent: Rent, cloud: Cloud) -> None:
    job = rent("--max-steps", "300", "--eval-every", "20")
    ended = job.start()
    work = job.home.work("dpo-1")
    until(lambda: any(work.glob("checkpoints/checkpoint-*")), "a checkpoint at home", seconds=180)
    job.machine().reboot()
    assert ended.result(timeout=240) is Outcome.SUCCEEDED
    assert job.sky is not None
    assert len(job.sky.launched) == 2
    succeeded(job)


def test_a_host_key_that_changes_ends_the_job_and_the_machine(rent: Rent, cloud: Cloud) -> None:
    job = rent("--max-steps", "2000")
    ended = job.start()
    job.until_step(3)
    machine = job.machine()
    machine.change_host_keys()
    machine.run(["pkill", "-KILL", "-f", "sshd: ubuntu"])
    assert ended.result(timeout=180) is Outcome.FAILED
    failed(job, "another host key", "nothing was sent to it")


def test_a_machine_whose_disk_is_full_is_said_to_be_so_and_ended(rent: Rent, cloud: Cloud) -> None:
    job = rent()

    def fill() -> None:
        job.machine().run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", "/home/ubuntu/launch"])

    job.before_launch = fill
    assert job.run() is Outcome.FAILED
    failed(job, "The disk of the rented machine is full")


def test_a_disk_that_is_full_here_costs_nothing_but_time(program: Program, rent: Rent, cloud: Cloud) -> None:
    """What was trained waits on the machine until there is room; the driver may end with its store."""
    state = program.home / "state"
    kept = program.home / "kept"
    state.rename(kept)
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", state], check=True)
    try:
        shutil.copytree(kept, state, dirs_exist_ok=True)
        job = rent("--max-steps", "150", "--eval-every", "10")
        ended = job.start()
        job.until_step(3)
        with (state / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(2**20))
        until(lambda: ended.done() or "No space left" in job.log(), "a disk that is full", seconds=60)
        assert not cloud.api.log("POST", "/instance-operations/terminate")
        (state / "filler").unlink()
        if ended.done():
            assert isinstance(ended.exception(), StoreFailed)
            assert job.run() is Outcome.SUCCEEDED
        else:
            assert ended.result(timeout=180) is Outcome.SUCCEEDED
        succeeded(job)
    finally:
        end_all(program.home.parent)
        subprocess.run(["umount", "--lazy", state], check=True)


# ---- the end ----


def test_results_that_cannot_come_home_wait_for_the_hold_and_no_longer(program: Program, rent: Rent) -> None:
    """The folder of the adapter at home cannot be written; the machine is not paid for until the budget is used up."""
    job = rent("--hold", "0.5")
    ended = job.start()
    job.until_state("training")
    blocked = job.home.work("dpo-1") / ".fetching-adapter"
    blocked.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", blocked], check=True)
    try:
        until(lambda: program.job("dpo-1")["attention"], "what is said of it", seconds=120, poll_s=0.5)
        (held,) = program.job("dpo-1")["attention"]
        assert held["code"] == "results_held"
        assert datetime.fromisoformat(held["until"]) - datetime.now(UTC) <= timedelta(seconds=30)
        assert ended.result(timeout=240) is Outcome.FAILED
    finally:
        subprocess.run(["umount", "--lazy", blocked], check=True)
    assert "is gone" in program.job("dpo-1")["error"]
    agrees_with_the_meter(program, job.cloud)


def test_at_the_budgets_line_the_best_adapter_comes_home_and_it_is_exit_5(rent: Rent, cloud: Cloud) -> None:
    """The trainer reads the deadline that the guard has published; here it is nearer, and the guard stopped."""
    job = rent("--max-steps", "100000", "--eval-every", "20")

    def nearer() -> None:
        record = record_of(job.program)
        assert record is not None
        soon = f"pkill -STOP -f '[d]eadline run' && echo $(($(date +%s) + {int(record.reserve_s) + 60})) > {PUBLISHED}"
        job.machine().run(["sh", "-c", soon])

    job.before_launch = nearer
    assert job.run() is Outcome.BUDGET_STOPPED
    row = job.program.job("dpo-1")
    assert row["outcome"] == "budget_stopped"
    assert pull.results_are_whole(Path(row["results"]))
    assert (Path(row["results"]) / "adapter" / "adapter_model.safetensors").is_file()
    agrees_with_the_meter(job.program, cloud)


def test_a_terminate_that_lies_is_called_until_the_list_agrees(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next("terminate", lie=True, times=3)
    job = rent()
    assert job.run() is Outcome.SUCCEEDED
    assert len(cloud.api.log("POST", "/instance-operations/terminate")) >= 4
    succeeded(job)


def test_a_machine_that_cannot_be_ended_stands_in_every_status_with_its_console(rent: Rent, cloud: Cloud) -> None:
    cloud.faults.next("terminate", answer=500, times=10_000)
    job = rent(clock=HastyClock(20))
    with pytest.raises(Exception, match="could not be seen to end"):
        job.run()
    (attention,) = job.program.job("dpo-1")["attention"]
    assert (attention["code"], attention["costing"]) == ("teardown_unconfirmed", True)
    assert "cloud.lambda.ai" in attention["command"]
    assert "teardown_unconfirmed" in job.program.good("status").stdout
    said = job.program.good("cost").stderr  # as any other command
    assert "could not be seen to end" in said
    assert "an hour" in said
    cloud.faults.clear()
    assert job.run() is Outcome.SUCCEEDED  # the next driver: it finds the verdict, and ends the machine
    assert job.program.job("dpo-1")["attention"] == []
    assert job.program.good("cost").stderr == ""
    assert cloud.provider.everything() == []


def test_a_list_of_another_account_proves_nothing_of_a_machine(rent: Rent, cloud: Cloud) -> None:
    """The next driver finds another key in the environment: what it does not see may be there."""
    cloud.faults.next("terminate", answer=500, times=10_000)
    job = rent(clock=HastyClock(20))
    with pytest.raises(Exception, match="could not be seen to end"):
        job.run()
    cloud.faults.clear()
    own = job.program.environ["LAMBDA_API_KEY"]
    job.program.environ["LAMBDA_API_KEY"] = SECOND_KEY
    with pytest.raises(Exception, match="rented with other credentials"):
        job.run()
    assert len(cloud.provider.everything()) == 1
    (attention,) = job.program.job("dpo-1")["attention"]
    assert (attention["code"], attention["costing"]) == ("teardown_unconfirmed", True)
    job.program.environ["LAMBDA_API_KEY"] = own
    assert job.run() is Outcome.SUCCEEDED
    assert cloud.provider.everything() == []


def test_cancelled_the_last_checkpoint_comes_home_and_the_machine_ends(rent: Rent, program: Program) -> None:
    job = rent("--max-steps", "2000", "--eval-every", "10")
    ended = job.start()
    job.until_step(15)
    cancelled(job, ended)
    results = Path(program.job("dpo-1")["results"])
    assert (results / "adapter_last" / "adapter_model.safetensors").is_file()
    agrees_with_the_meter(program, job.cloud)


@pytest.mark.full
def test_cancelled_now_a_machine_that_does_not_answer_ends(rent: Rent, program: Program) -> None:
    job = rent("--max-steps", "2000")
    ended = job.start()
    job.until_step(3)
    job.machine().cut()
    cancelled(job, ended, "--now")
    agrees_with_the_meter(program, job.cloud)


# ---- keys ----


def test_a_key_that_is_missing_malformed_open_to_all_or_expired_is_exit_4_with_the_remedy(
    program: Program, cloud: Cloud
) -> None:
    environ = {name: value for name, value in program.environ.items() if name != "LAMBDA_API_KEY"}
    bare = Program(program.home, program.folder, environ)
    keys = program.home / ".lambda_cloud/lambda_keys"

    def said(renter: Program) -> str:
        done = renter.run(*LINE)
        assert done.returncode == 4, done.stderr
        assert "Next: " in done.stderr
        return done.stderr

    assert "There is no key of Lambda here" in said(bare)
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.write_text("what is this\n")
    keys.chmod(0o600)
    assert "api_key" in said(bare)
    keys.write_text(f"api_key = {cloud.key}\n")
    keys.chmod(0o644)
    assert "chmod 600" in said(bare)
    keys.chmod(0o600)
    cloud.provider.revoke(cloud.key)
    assert "does not accept the API key" in said(bare)
    assert json.loads(program.good("cost", "--json").stdout)["rows"] == []
    assert cloud.api.creates() == []


# ---- several at once ----


def test_two_jobs_at_once_are_two_machines_of_two_names(rent: Rent, cloud: Cloud, program: Program) -> None:
    first, second = rent(), rent()
    ends = [job.start() for job in (first, second)]
    assert [end.result(timeout=240) for end in ends] == [Outcome.SUCCEEDED] * 2
    names = {request.body["name"] for request in cloud.api.creates()}
    assert len(names) == 2
    agrees_with_the_meter(program, cloud)


def test_two_stores_on_one_account_do_not_touch_each_others_machines(
    rent: Rent, cloud: Cloud, tmp_path: Path, demo_project: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_renter(cloud, tmp_path / "other", demo_project)
    without_test_data(other.folder)
    job, neighbour = rent("--max-steps", "150"), rent("--max-steps", "20", renter=other)
    ends = [job.start(), neighbour.start()]
    job.until_step(1)
    mine, theirs = record_of(job.program), record_of(other)
    assert mine is not None
    assert theirs is not None
    assert mine.instance_name != theirs.instance_name
    said = other.run("reap", "--yes")
    assert mine.instance_name in said.stdout + said.stderr
    assert [end.result(timeout=240) for end in ends] == [Outcome.SUCCEEDED] * 2
    agrees_with_the_meter(job.program, cloud)
    agrees_with_the_meter(other, cloud)
