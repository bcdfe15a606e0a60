"""The fake cloud is what the launcher's tests rest on: so here is what it is held to."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.lambda_cloud import rootfs
from tests.acceptance.lambda_cloud.api import Api
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.faults import NO_CAPACITY, QUOTA, Faults
from tests.acceptance.lambda_cloud.instances import trainer_packages
from tests.acceptance.lambda_cloud.meter import Meter
from tests.acceptance.lambda_cloud.network import ip, sweep
from tests.acceptance.lambda_cloud.provider import DEFAULT_KEY, SECOND_KEY, Provider
from tests.acceptance.waiting import until

REQUEST_LIMIT_S = 20


class Client:
    """A customer with one key."""

    def __init__(self, url: str, key: str = DEFAULT_KEY) -> None:
        self.url, self.key = url, key

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_LIMIT_S) as answer:
                return answer.status, json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["code"]

    def add_key(self, name: str, public_key: str = "ssh-ed25519 AAAA nobody") -> None:
        assert self.ask("POST", "/ssh-keys", {"name": name, "public_key": public_key})[0] == 200

    def launch(self, name: str, **more: object) -> tuple[int, Any]:
        body = {"region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["mine"], "name": name}
        return self.ask("POST", "/instance-operations/launch", body | more)

    def terminate(self, *ids: str) -> tuple[int, Any]:
        return self.ask("POST", "/instance-operations/terminate", {"instance_ids": list(ids)})

    def instances(self) -> list[dict[str, Any]]:
        status, listed = self.ask("GET", "/instances")
        assert status == 200
        return listed

    def status_of(self, name: str) -> str | None:
        return next((each["status"] for each in self.instances() if each["name"] == name), None)


@pytest.fixture
def api() -> Iterator[Api]:
    """The API with no machines behind it."""
    made = Api(Provider(Faults()))
    yield made
    made.close()


@pytest.fixture
def client(api: Api) -> Client:
    customer = Client(api.listen("127.0.0.1"))
    customer.add_key("mine")
    return customer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_meter_bills_begun_minutes_from_healthy_to_terminate_at_the_launch_price() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.launched("a", "one", "first", 120)
    clock.now_s += 300
    assert meter.read()[0].usd == 0  # booting is free
    meter.active("a")
    clock.now_s += 61
    meter.active("a")  # seen again: the first time counts
    assert meter.read()[0].billed_s == 120
    assert meter.total_usd() == pytest.approx(120 / 3600 * 1.20)
    meter.terminated("a")
    clock.now_s += 3600
    meter.terminated("a")
    reading = meter.named("one")[0]
    assert (reading.billed_s, reading.terminated_at) == (120, 1_000_361.0)


def test_a_price_is_frozen_at_the_launch(api: Api, client: Client) -> None:
    client.launch("before")
    api.provider.set_type("gpu_1x_a10", price_cents_per_hour=999)
    client.launch("after")
    assert [each.price_cents_per_hour for each in api.meter.read()] == [129, 999]
    assert client.ask("GET", "/instance-types")[1]["gpu_1x_a10"]["instance_type"]["price_cents_per_hour"] == 999


def test_an_instance_lives_from_booting_to_gone(api: Api, client: Client) -> None:
    api.provider.terminate_s = 0.3
    api.faults.next_boot(boot_s=0.3)
    tags = [{"key": "store", "value": "abc123"}]
    status, answer = client.launch("one", tags=tags, user_data="#cloud-config\n{}")
    assert status == 200
    (listed,) = client.instances()
    assert (listed["status"], listed["ip"], listed["tags"]) == ("booting", None, tags)
    until(lambda: client.status_of("one") == "active", "it becomes active")
    assert client.ask("GET", f"/instances/{answer['instance_ids'][0]}")[1]["ip"] == "127.0.0.1"
    assert client.terminate(*answer["instance_ids"])[1]["terminated_instances"][0]["status"] == "terminating"
    until(lambda: not client.instances(), "it is gone")
    assert client.ask("GET", f"/instances/{answer['instance_ids'][0]}") == (404, "global/object-does-not-exist")
    assert [each.body["name"] for each in api.creates()] == ["one"]


def test_two_accounts_see_their_own(api: Api, client: Client) -> None:
    other = Client(client.url, SECOND_KEY)
    assert other.launch("theirs") == (404, "global/object-does-not-exist")  # the key `mine` is not theirs
    other.add_key("mine")
    assert other.launch("theirs")[0] == 200
    ours = client.launch("ours")[1]["instance_ids"]
    assert [each["name"] for each in client.instances()] == ["ours"]
    assert [each["name"] for each in other.instances()] == ["theirs"]
    assert other.terminate(*ours) == (404, "global/object-does-not-exist")
    assert {each.account for each in api.log("GET", "/instances")} == {"first", "second"}


def test_a_key_that_nobody_has_is_refused_and_so_is_one_that_was_revoked(api: Api, client: Client) -> None:
    assert Client(client.url, "nonsense").ask("GET", "/instances") == (401, "global/invalid-api-key")
    client.launch("one")
    api.provider.revoke(DEFAULT_KEY, in_its_place="renewed")
    assert client.ask("GET", "/instances") == (401, "global/invalid-api-key")
    assert [each["name"] for each in Client(client.url, "renewed").instances()] == ["one"]


def test_capacity_quota_and_parameters_are_refused_as_lambda_does(api: Api, client: Client) -> None:
    assert client.launch("one", region_name="us-west-2") == (400, NO_CAPACITY)
    api.provider.set_type("gpu_1x_a10", regions=("us-west-2",))
    assert client.launch("one", region_name="us-west-2")[0] == 200
    assert client.launch("one") == (400, NO_CAPACITY)
    api.provider.set_quota(DEFAULT_KEY, 1)
    assert client.launch("two", region_name="us-west-2") == (400, QUOTA)
    assert client.launch("two", colour="red") == (400, "global/invalid-parameters")
    assert client.launch("two", ssh_key_names=[]) == (400, "global/invalid-parameters")
    assert client.launch("two", region_name="mars") == (404, "global/object-does-not-exist")


def test_faults_happen_as_often_as_told(api: Api, client: Client) -> None:
    api.faults.next("instances", answer=429, times=2)
    assert [client.ask("GET", "/instances")[0] for _ in range(3)] == [429, 429, 200]
    api.faults.next("launch", answer=400, code=NO_CAPACITY, where={"region_name": "us-west-1"})
    assert client.launch("elsewhere")[0] == 200
    assert client.launch("there", region_name="us-west-1") == (400, NO_CAPACITY)
    api.faults.next("instance-types", delay_s=0.3)
    began = time.monotonic()
    assert client.ask("GET", "/instance-types")[0] == 200
    assert time.monotonic() - began >= 0.3
    api.faults.next("ssh-keys", cut=True)
    with pytest.raises(OSError):
        client.ask("GET", "/ssh-keys")
    assert api.faults.left() == {}


def test_a_launch_that_works_and_answers_500_shows_up_later(api: Api, client: Client) -> None:
    api.faults.next("launch", answer=500, though_it_works=True, list_lag_s=0.4)
    assert client.launch("one") == (500, "global/internal-error")
    assert client.instances() == []
    assert [each.name for each in api.provider.everything()] == ["one"]
    until(lambda: client.status_of("one") == "active", "the list shows it")


def test_a_terminate_that_lies_ends_nothing(api: Api, client: Client) -> None:
    ids = client.launch("one")[1]["instance_ids"]
    until(lambda: client.status_of("one") == "active", "it becomes active")
    api.faults.next("terminate", lie=True)
    assert client.terminate(*ids)[0] == 200
    assert client.status_of("one") == "active"
    assert api.meter.read()[0].terminated_at is None
    assert client.terminate(*ids)[0] == 200
    until(lambda: not client.instances(), "it is gone")


def test_instances_may_stay_booting_or_turn_out_unhealthy(api: Api, client: Client) -> None:
    api.faults.next_boot(stuck=True)
    api.faults.next_boot(unhealthy=True)
    client.launch("stuck")
    client.launch("sick")
    until(lambda: client.status_of("sick") == "unhealthy", "it turns out unhealthy")
    assert client.status_of("stuck") == "booting"
    assert api.meter.total_usd() == 0


def make_key(folder: Path, name: str) -> tuple[Path, str]:
    file = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file], check=True)
    return file, file.with_suffix(".pub").read_text().strip()


class Rented:
    """An instance that a test has, with a host key that the test made."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud, self.folder = cloud, folder
        self.client = Client(cloud.url)
        self.key, public = make_key(folder, "user")
        self.host_key, self.host_public = make_key(folder, "host")
        self.client.add_key("mine", public)

    def launch(self, name: str, *bootcmd: str) -> str:
        config = {
            "ssh_deletekeys": True,
            "ssh_keys": {"ed25519_private": self.host_key.read_text(), "ed25519_public": self.host_public},
            "bootcmd": list(bootcmd),
        }
        user_data = "#cloud-config\n" + yaml.safe_dump(config)
        status, answer = self.client.launch(name, user_data=user_data)
        assert status == 200, answer
        return answer["instance_ids"][0]

    def until_active(self, name: str) -> str:
        until(lambda: self.client.status_of(name) == "active", f"{name} becomes active", seconds=120)
        return next(each["ip"] for each in self.client.instances() if each["name"] == name)

    def ssh(self, address: str, command: str, limit_s: float = 30) -> subprocess.CompletedProcess[str]:
        known = self.folder / f"known-{address}"
        known.write_text(f"{address} {self.host_public}\n")
        options = [
            f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ConnectTimeout=5",
            "GlobalKnownHostsFile=/dev/null", "BatchMode=yes",
        ]  # fmt: skip
        arguments = [word for option in options for word in ("-o", option)]
        return subprocess.run(
            ["ssh", "-F", "none", "-i", self.key, *arguments, f"ubuntu@{address}", command],
            capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip


@pytest.fixture
def rented(cloud: Cloud, tmp_path: Path) -> Rented:
    return Rented(cloud, tmp_path)


BOOTS = "date +%s.%N >> /var/lib/boots; pgrep -x sshd >> /var/lib/boots-sshd || true"


def test_user_data_holds_before_sshd_starts_and_a_reboot_keeps_the_disk(rented: Rented) -> None:
    rented.launch("one", BOOTS)
    address = rented.until_active("one")
    first = rented.ssh(address, "sudo -n true && whoami && touch kept && touch /dev/shm/lost && wc -l < /var/lib/boots")
    assert first.stdout.split() == ["ubuntu", "1"], first.stderr  # by the pinned host key, at the first connection
    machine = rented.cloud.machine("one")
    assert machine.run(["cat", "/var/lib/boots-sshd"]) == ""  # no sshd was there when bootcmd ran
    machine.reboot()
    again = rented.ssh(address, "ls kept; ls /dev/shm/lost; wc -l < /var/lib/boots; cat /var/lib/boots-sshd")
    assert again.stdout.split() == ["kept", "2"], again.stderr


def test_terminate_ends_all_that_runs_and_an_instance_may_end_itself(rented: Rented) -> None:
    instance_id = rented.launch("one", "setsid sleep 600.25 > /dev/null 2>&1 &")
    address = rented.until_active("one")
    machine = rented.cloud.machine("one")
    assert any("600.25" in line for line in machine.processes())
    body = json.dumps({"instance_ids": [instance_id]})
    url = f"{rented.cloud.url_on_host}/api/v1/instance-operations/terminate"
    said = rented.ssh(address, f"curl -sS -H 'Authorization: Bearer {rented.cloud.key}' -d '{body}' {url}")
    assert "terminating" in said.stdout, said.stderr
    until(lambda: not rented.client.instances(), "it is gone")
    assert not machine.alive
    assert not machine.folder.exists()
    assert not running("sleep 600.25")
    (reading,) = rented.cloud.meter.named("one")[-1:]
    assert reading.terminated_at is not None
    assert reading.billed_s == 60


def running(words: str) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line == words]


def test_several_run_at_once_reach_the_api_and_nothing_else(rented: Rented) -> None:
    rented.launch("one")
    rented.launch("two")
    one, two = rented.until_active("one"), rented.until_active("two")
    assert one != two
    for url in (rented.cloud.url_on_host, "https://cloud.lambdalabs.com", "https://cloud.lambda.ai"):
        said = rented.ssh(one, f"curl -sS -H 'Authorization: Bearer {rented.cloud.key}' {url}/api/v1/instances")
        assert [each["name"] for each in json.loads(said.stdout)["data"]] == ["one", "two"], said.stderr
    assert rented.ssh(one, "curl -sS --max-time 5 http://198.51.100.1/").returncode != 0
    assert "Network is unreachable" in rented.ssh(one, "ip route get 198.51.100.1").stderr


def test_a_link_that_is_cut_hangs_and_goes_on(rented: Rented) -> None:
    rented.launch("one")
    address = rented.until_active("one")
    machine = rented.cloud.machine("one")
    machine.cut()
    assert rented.ssh(address, "true").returncode == 255
    machine.restore()
    assert rented.ssh(address, "true").returncode == 0
    machine.kill()
    assert rented.ssh(address, "true").returncode == 255
    assert rented.client.status_of("one") == "active"  # Lambda does not notice


def test_a_changed_host_key_is_another_one(rented: Rented) -> None:
    rented.launch("one")
    address = rented.until_active("one")
    rented.cloud.machine("one").change_host_keys()
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in rented.ssh(address, "true").stderr


def test_user_data_may_be_ignored_and_sshd_may_never_start(rented: Rented) -> None:
    rented.cloud.faults.next_boot(ignore_user_data=True)
    rented.launch("one", BOOTS)
    rented.cloud.faults.next_boot(no_sshd=True)
    rented.launch("two")
    one, two = rented.until_active("one"), rented.until_active("two")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in rented.ssh(one, "true").stderr
    assert rented.cloud.machine("one").run(["ls", "/var/lib"]).split().count("boots") == 0
    assert "Connection refused" in rented.ssh(two, "true").stderr


@pytest.mark.skipif(trainer_packages() is None, reason="the trainer's environment (.venv-train) is not made: make test")
def test_the_trainers_environment_is_there(rented: Rented) -> None:
    rented.launch("one")
    address = rented.until_active("one")
    said = rented.ssh(
        address,
        "cd launch/environments/* && test -e whole && bin/python -c 'import torch, trl; print(torch.__version__)'",
        120,
    )
    assert said.stdout.startswith("2."), said.stderr


def test_the_servers_certificate_is_the_test_authoritys(cloud: Cloud) -> None:
    context = ssl.create_default_context(cafile=rootfs.cache() / "authority.crt")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{cloud.url_https}/api/v1/instances", timeout=5, context=context)
    with refused.value:
        assert refused.value.code == 401


LEFT_ALONE = """
import time
from tests.acceptance.lambda_cloud.cloud import Cloud
cloud = Cloud()
account = cloud.provider.account(cloud.key)
cloud.provider.add_ssh_key(account, {"name": "mine", "public_key": "ssh-ed25519 AAAA nobody"})
body = {"region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["mine"], "name": "left"}
cloud.provider.launch(account, body)
cloud.machine("left").wait_until_up()
print(cloud.network.bridge, flush=True)
time.sleep(600)
"""


def test_what_a_killed_run_left_is_swept(cloud: Cloud) -> None:
    with subprocess.Popen([sys.executable, "-c", LEFT_ALONE], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        bridge = child.stdout.readline().strip()
        child.kill()
    assert bridge.startswith("lnch")
    assert bridge != cloud.network.bridge  # two runs at once do not meet
    (namespace,) = [line.split()[0] for line in ip("netns", "list").splitlines() if line.startswith(f"{bridge}-")]
    assert ip("netns", "pids", namespace).split()
    sweep(bridge)
    assert namespace not in ip("netns", "list")
    assert bridge not in ip("link")
    assert not (rootfs.cache() / "runs" / bridge).exists()
