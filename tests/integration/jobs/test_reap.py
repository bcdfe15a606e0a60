"""`launch reap` and the doctor's look at Lambda: the program itself, a store, and an account on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.home import Home
from jobs.job import Attention, Outcome
from jobs.lambda_api import LambdaApi
from jobs.offer import Offer
from jobs.store import Store
from tests.integration.jobs.loopback_lambda import KEY, LIST, TERMINATE, Fault, LoopbackLambda, serving

from .conftest import make_spec

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass
class Account:
    """A store with jobs in it, and the machines of the account that it shares with others."""

    folder: Path
    home: Home
    store: Store
    cloud: LoopbackLambda

    def job(self, *, done: bool, attention: Attention | None = None) -> str:
        job_id = self.store.next_job_id()
        self.store.create(make_spec(self.home, job_id, self.folder / "project"), now=NOW)
        write = self.store.as_driver(job_id, self.store.take_lease(job_id))
        if attention:
            write.set_attention(attention)
        if done:
            write.finish(None, Outcome.FAILED, "it broke", NOW)
        else:
            write.open_attempt(Offer(cloud="lambda", instance_type="gpu_1x_a10"), instance_id="x", now=NOW)
        return job_id

    def machine(self, job_id: str, attempt: int = 1, store_id: str | None = None, **more: Any) -> str:
        return self.cloud.add(f"launch-{store_id or self.store.store_id}-{job_id}-{attempt}-0011aabb-head", **more)

    def launch(self, *words: str, key: str | None = KEY) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "LAUNCH_HOME": str(self.home.root),
            "LAUNCH_LAMBDA_URL": self.cloud.address, "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }  # fmt: skip
        if key is not None:
            variables["LAMBDA_API_KEY"] = key
        return subprocess.run(
            [sys.executable, "-m", "launcher", *words], cwd=self.folder, env=variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    home = Home(tmp_path / "state")
    home.root.mkdir()
    with Store.open(home) as store, serving(LoopbackLambda()) as cloud:
        yield Account(tmp_path, home, store, cloud)


def test_only_machines_of_this_store_whose_job_is_done_or_unknown_are_ended(account: Account) -> None:
    done, training = account.job(done=True), account.job(done=False)
    held = account.job(done=True, attention=Attention(code="results_held", command="launch pull"))
    over = [account.machine(done), account.machine(done, 2, status="unhealthy"), account.machine("dpo-99")]
    mine, results = account.machine(training), account.machine(held)
    strangers = [
        account.machine(done, store_id="zzz999"), account.cloud.add("a colleague's"), account.cloud.add(None),
        account.cloud.add(f"launch-{account.store.store_id}-notes"),
        account.cloud.add(f"x-launch-{account.store.store_id}-{done}-1-0011aabb-head"),
    ]  # fmt: skip
    gone = account.machine(done, 3, status="terminated")

    listed = account.launch("reap", "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert account.cloud.count(TERMINATE) == 0
    claims = [line.split()[0] for line in listed.stdout.splitlines()]
    assert claims == ["over"] * 3 + ["owned"] * 2 + ["stranger"] * 5
    assert "$1.29/h: dpo-1 is done" in listed.stdout
    assert "of another store, zzz999" in listed.stdout

    unasked = account.launch("reap")
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    assert account.cloud.count(TERMINATE) == 0

    ended = account.launch("reap", "--yes", "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["schema"] == "reap/1"
    assert [row["instance_id"] for row in document["machines"] if row["ended"]] == over
    assert set(account.cloud.machines) == {mine, results, *strangers, gone}
    assert account.launch("reap", "--yes").returncode == 0


def test_a_machine_that_will_not_end_is_said_with_what_to_do_and_one_that_does_clears_the_warning(
    account: Account,
) -> None:
    warned = account.job(done=True, attention=Attention(code="teardown_unconfirmed", costing=True, command="launch"))
    machine = account.machine(warned)
    account.cloud.faults[TERMINATE] = [Fault(200), Fault(500), Fault(200)]  # each does nothing
    done = account.launch("reap", "--yes")
    assert done.returncode == 0, done.stderr
    assert "1 machine ended" in done.stderr
    assert machine not in account.cloud.machines
    assert account.store.job(warned).attention == ()


def test_an_end_that_does_not_come_is_given_up_and_what_is_left_is_named(account: Account) -> None:
    waited: list[float] = []
    api = LambdaApi(
        KEY, {"LAUNCH_LAMBDA_URL": account.cloud.address}, monotonic=lambda: sum(waited), sleep=waited.append
    )
    stays, goes, leaves = (
        account.machine("dpo-1"),
        account.machine("dpo-2"),
        account.machine("dpo-3", status="terminating"),
    )
    account.cloud.faults[TERMINATE] = [Fault(200)] * 1000
    assert [instance.id for instance in api.end([stays, leaves], patience_s=60)] == [stays, leaves]
    assert 60 <= sum(waited) < 70
    assert all(body["instance_ids"] == [stays] for what, body in account.cloud.asked if what == TERMINATE)
    account.cloud.faults[TERMINATE] = []
    del account.cloud.machines[leaves]
    assert api.end([stays, goes]) == []


def test_without_a_key_or_with_one_that_is_refused_it_is_4_with_the_remedy(account: Account) -> None:
    for key, says in ((None, "no key of Lambda"), ("another", "does not accept the API key"), ("two words", "no key")):
        refused = account.launch("reap", key=key)
        assert refused.returncode == 4, refused.stderr
        assert says in refused.stderr
        assert "api_key = KEY" in refused.stderr


def finding(account: Account, name: str, key: str | None = KEY) -> dict[str, Any]:
    found = json.loads(account.launch("doctor", "--json", key=key).stdout)["findings"]
    return next(each for each in found if each["name"] == name)


def test_the_doctor_tries_the_key_with_one_harmless_question(account: Account) -> None:
    account.cloud.add("a colleague's")
    found = finding(account, "Lambda")
    assert (found["level"], found["remedy"]) == ("good", None)
    assert "1 machine on the account" in found["found"]
    assert [what for what, _ in account.cloud.asked] == [LIST]

    assert finding(account, "Lambda", key=None)["level"] == "note"
    refused = finding(account, "Lambda", key="another")
    assert refused["level"] == "broken"
    assert "make a key at" in refused["remedy"]
    account.cloud.faults[LIST] = [Fault(503)] * 100
    assert "answered 503" in finding(account, "Lambda")["found"]

    file = account.folder / ".lambda_cloud" / "lambda_keys"
    file.parent.mkdir(mode=0o755)
    file.write_text(f"api_key = {KEY}\n")
    file.chmod(0o644)
    readable = finding(account, "Lambda", key=None)
    assert readable["level"] == "broken"
    assert readable["remedy"].startswith(f"chmod 600 {file}")
