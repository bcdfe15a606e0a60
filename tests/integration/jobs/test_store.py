"""The store does the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from artifacts.errors import LeaseLost, StoreTooNew, UsageProblem
from jobs.home import Home
from jobs.job import TRANSITIONS, Attention, Outcome, PhaseProgress, Progress, State
from jobs.offer import Offer, Rate
from jobs.store import Store

from .conftest import make_spec

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
OFFER = Offer(cloud="lambda", instance_type="gpu_1x_a10", region="us-east-1", gpu="A10", gpus=1, price_per_hour=1.2)


@pytest.fixture
def store(home):
    with Store.open(home) as store:
        yield store


def make(store: Store, home: Home, name: str = "", at: datetime = NOW):
    job_id = store.next_job_id()
    return store.create(make_spec(home, job_id, home.root / "p", name=name or job_id), now=at)


def test_what_is_recorded_comes_back(store, home):
    job = make(store, home)
    assert job == store.job("dpo-1")
    assert (job.state, job.outcome, job.lease, job.attempts, job.attention) == (State.QUEUED, None, 0, (), ())
    assert job.created_at == NOW
    assert job.created_at.utcoffset() == timedelta(0)
    with pytest.raises(UsageProblem, match="recorded already"):
        store.create(job.spec, now=NOW)


def test_moments_of_another_zone_come_back_in_utc_and_naive_ones_are_refused(store, home):
    elsewhere = timezone(timedelta(hours=5))
    assert make(store, home, at=NOW.astimezone(elsewhere)).created_at == NOW
    with pytest.raises(Exception, match="without a time zone"):
        make(store, home, at=NOW.replace(tzinfo=None))


def test_store_id_is_made_once(home):
    with Store.open(home) as first, Store.open(home) as second:
        assert first.store_id == second.store_id
    assert len(first.store_id) == 6
    assert first.store_id.isalnum()
    assert first.store_id == first.store_id.lower()


def test_ids_are_given_once_to_many_askers_and_many_openers_make_one_store(home):
    found: list[str] = []
    ids: list[str] = []

    def ask() -> None:
        with Store.open(home) as store:
            ids.append(store.store_id)
            found.extend([store.next_job_id() for _ in range(5)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"dpo-{n}" for n in range(1, 21))
    assert len(set(ids)) == 1


def test_each_method_has_numbers_of_its_own_that_begin_with_its_first_job(home):
    """A store that an earlier version made has a counter of DPO alone; two askers may be the first of another."""
    found: list[str] = []
    start = threading.Barrier(4)

    def ask() -> None:
        with Store.open(home) as store:
            start.wait(30)
            found.extend([store.next_job_id("sft") for _ in range(5)])

    with Store.open(home) as store:
        assert [store.next_job_id(), store.next_job_id("orpo"), store.next_job_id()] == ["dpo-1", "orpo-1", "dpo-2"]
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(f"sft-{n}" for n in range(1, 21))
        assert store.next_job_id("orpo") == "orpo-2"


def test_a_reference_is_an_id_a_name_or_a_unique_beginning(store, home):
    for number, name in enumerate(["summaries", "notes", "notes", "dpo-1"] + [""] * 6):
        make(store, home, name, NOW + timedelta(seconds=number))
    assert store.job("dpo-1").id == "dpo-1"
    assert store.job("summ").id == "dpo-1"
    assert store.job("dpo-10").id == "dpo-10"
    with pytest.raises(UsageProblem, match="more than one job: dpo-2, dpo-3"):
        store.job("notes")
    with pytest.raises(UsageProblem, match="summaries"):
        store.job("sumaries")
    with pytest.raises(UsageProblem, match="no job ''"):
        store.job("")
    assert [job.id for job in store.jobs(limit=2)] == ["dpo-10", "dpo-9"]


def test_cancel_is_never_taken_back(store, home):
    job = make(store, home)
    assert store.request_cancel(job.id, "pull_first").cancel_requested == "pull_first"
    assert store.request_cancel(job.id, "now").cancel_requested == "now"
    assert store.request_cancel(job.id, "pull_first").cancel_requested == "now"


def test_a_driver_writes_under_its_lease_only(store, home):
    job = make(store, home)
    old = store.as_driver(job.id, store.take_lease(job.id))
    attempt = old.open_attempt(OFFER, instance_id="i-1", now=NOW)
    new = store.as_driver(job.id, store.take_lease(job.id))
    before = store.job(job.id)
    for write in (
        lambda: old.move(attempt.number, State.TEARING_DOWN, NOW),
        lambda: old.finish(attempt.number, Outcome.SUCCEEDED, None, NOW),
        lambda: old.open_attempt(OFFER, instance_id="i-2", now=NOW),
        lambda: old.progress(Progress(step=1, max_steps=2, as_of=NOW)),
        lambda: old.phase(PhaseProgress(name="training", done=1, unit="steps")),
        lambda: old.set_attention(Attention(code="displaced", command="x")),
        lambda: old.cancel_requested(),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.job(job.id) == before
    new.move(attempt.number, State.TEARING_DOWN, NOW)


def test_an_attempt_ends_before_the_next_one_opens_and_the_ledger_has_a_row_each(store, home):
    job = make(store, home)
    write = store.as_driver(job.id, store.take_lease(job.id))
    write.open_attempt(OFFER, instance_id="i-1", now=NOW, billing_unit_s=60)
    with pytest.raises(ValueError, match="has not ended"):
        write.open_attempt(OFFER, instance_id="i-2", now=NOW)
    row = store.ledger(now=NOW + timedelta(seconds=61))[0]
    assert (row.billed_s, row.settled, round(row.cost_usd, 6)) == (120, False, 0.04)
    write.move(1, State.TEARING_DOWN, NOW)
    write.finish(1, Outcome.FAILED, "it broke", NOW + timedelta(hours=1))
    done = store.job(job.id)
    assert (done.state, done.outcome, done.error) == (State.DONE, Outcome.FAILED, "it broke")
    assert store.ledger(job.id)[0].cost_usd == pytest.approx(1.2)
    assert store.unfinished() == []
    again = store.reopen(job.id, NOW)
    assert (again.state, again.outcome, again.error, again.ended_at) == (State.QUEUED, None, None, None)
    assert store.as_driver(job.id, store.take_lease(job.id)).open_attempt(OFFER, instance_id="", now=NOW).number == 2


def test_attention_has_one_entry_a_code(store, home):
    job = make(store, home)
    write = store.as_driver(job.id, store.take_lease(job.id))
    write.set_attention(Attention(code="displaced", command="a"))
    write.set_attention(Attention(code="displaced", command="b"))
    store.set_attention(job.id, Attention(code="driver_lost", command="c", until=NOW))
    assert [(one.code, one.command, one.until) for one in store.job(job.id).attention] == [
        ("displaced", "b", None),
        ("driver_lost", "c", NOW),
    ]
    write.clear_attention("displaced")
    assert [one.code for one in store.job(job.id).attention] == ["driver_lost"]


def test_rates_are_kept_a_host(store):
    rate = Rate(device="cpu", name="x", precision="bf16", flop_per_s=1e9, basis="measured", measured_at=NOW)
    store.add_rate(rate)
    store.add_rate(rate.model_copy(update={"flop_per_s": 2e9}), host="elsewhere")
    assert store.rates() == [rate]
    assert store.rates("elsewhere")[0].flop_per_s == 2e9


def test_a_newer_database_is_refused_and_untouched(tmp_path: Path):
    home = Home(tmp_path)
    Store.open(home).close()
    with sqlite3.connect(home.database_file) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    before = home.database_file.read_bytes()
    with pytest.raises(StoreTooNew, match="newer version"):
        Store.open(home)
    assert home.database_file.read_bytes() == before


def test_a_state_folder_of_any_name_holds_its_own_database(tmp_path: Path):
    home = Home(tmp_path / "a?mode=memory#b%20c'\"\n")
    home.root.mkdir()
    for _ in range(2):  # made, then read
        Store.open(home).close()
    assert home.database_file.is_file()
    assert list(tmp_path.iterdir()) == [home.root]


@pytest.mark.parametrize("content", [b"not a database at all" * 99, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_database_is_named_and_kept(tmp_path: Path, content: bytes):
    home = Home(tmp_path)
    home.database_file.write_bytes(content)
    with pytest.raises(UsageProblem, match="cannot be read"):
        Store.open(home)
    assert home.database_file.read_bytes() == content


def test_a_database_of_someone_else_is_refused(tmp_path: Path):
    home = Home(tmp_path)
    with sqlite3.connect(home.database_file) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    with pytest.raises(UsageProblem, match="cannot be read"):
        Store.open(home)


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path):
    with pytest.raises(UsageProblem) as caught:
        Store.open(Home(tmp_path, "postgresql+psycopg://me:secret@127.0.0.1:1/x"))
    assert "LAUNCH_DATABASE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


class Life(RuleBasedStateMachine):
    """Any order of driver writes: allowed are exactly the moves of the table, and the job mirrors its attempt."""

    home: Home

    @initialize()
    def begin(self) -> None:
        self.store = Store.open(self.home)
        self.job_id = make(self.store, self.home).id
        self.write = self.store.as_driver(self.job_id, self.store.take_lease(self.job_id))
        self.number, self.state, self.done = 0, State.ENDED, False

    @rule()
    def open(self) -> None:
        if self.state is State.ENDED and not self.done:
            self.number = self.write.open_attempt(OFFER, instance_id="i", now=NOW).number
            self.state = State.PROVISIONING
        elif self.state is not State.ENDED:
            with pytest.raises(ValueError, match="has not ended"):
                self.write.open_attempt(OFFER, instance_id="i", now=NOW)

    @rule(to=st.sampled_from(list(State)))
    def move(self, to: State) -> None:
        if self.number and to in TRANSITIONS[self.state]:
            self.write.move(self.number, to, NOW)
            self.state = to
        else:
            with pytest.raises(ValueError, match=r"cannot go|has no attempt"):
                self.write.move(self.number, to, NOW)

    @rule()
    def finish(self) -> None:
        if self.state is State.TEARING_DOWN:
            self.write.finish(self.number, Outcome.FAILED, None, NOW)
            self.state, self.done = State.ENDED, True

    @rule()
    def resume(self) -> None:
        if self.done:
            self.store.reopen(self.job_id, NOW)
            self.done = False

    @invariant()
    def the_job_mirrors_its_attempt(self) -> None:
        job = self.store.job(self.job_id)
        expected = State.DONE if self.done else State.QUEUED if self.state is State.ENDED else self.state
        assert job.state is expected
        assert (job.outcome is not None) == self.done
        assert sum(attempt.ended_at is None for attempt in job.attempts) == (self.state is not State.ENDED)
        assert all((one.state is State.ENDED) == (one.ended_at is not None) for one in job.attempts)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


def test_no_order_of_writes_leaves_the_table_of_transitions(tmp_path: Path):
    from hypothesis.stateful import run_state_machine_as_test

    class Here(Life):
        home = Home(tmp_path)

    quick = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Here, settings=quick)
