"""Lambda's client against a server on loopback: what it sends, what it makes of each refusal, what it never repeats."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.errors import CredentialProblem
from jobs.lambda_api import CreateUncertain, LambdaApi
from jobs.lambda_http import (
    KeyRefused,
    LambdaProblem,
    LambdaRefused,
    LambdaUnreachable,
    NoCapacity,
    Pace,
    QuotaReached,
    RateLimited,
)
from jobs.lambda_key import lambda_key
from tests.integration.jobs.loopback_lambda import KEY, LAUNCH, LIST, TERMINATE, Fault, LoopbackLambda, serving

NAME = "launch-abc123-dpo-1-1-0011aabb-head"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPublic"


class Time:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


@pytest.fixture
def cloud() -> Iterator[LoopbackLambda]:
    with serving(LoopbackLambda()) as cloud:
        yield cloud


def client(cloud: LoopbackLambda, *, key: str = KEY, clock: Time | None = None, timeout_s: float = 10) -> LambdaApi:
    clock = clock or Time()
    environ = {"LAUNCH_LAMBDA_URL": cloud.address}
    return LambdaApi(key, environ, timeout_s=timeout_s, monotonic=clock.monotonic, sleep=clock.sleep)


def launch(api: LambdaApi) -> str:
    return api.launch(
        name=NAME, region="us-east-1", instance_type="gpu_1x_a10", ssh_key_name="sky-key-1",
        user_data="#cloud-config\n", tags={"launch-store": "abc123"},
    )  # fmt: skip


def test_a_machine_is_made_listed_by_its_exact_name_and_ended_by_its_id(cloud: LoopbackLambda) -> None:
    stranger = cloud.add(f"{NAME}-2")
    cloud.add(None)
    api = client(cloud)
    made = launch(api)
    assert cloud.asked[-1][1] == {
        "region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["sky-key-1"], "name": NAME,
        "user_data": "#cloud-config\n", "tags": [{"key": "launch-store", "value": "abc123"}],
    }  # fmt: skip
    (mine,) = api.named(NAME)
    assert (mine.id, mine.status, mine.ip, mine.region.name) == (made, "booting", None, "us-east-1")
    api.terminate([made])
    assert api.named(NAME) == []
    assert stranger in {machine.id for machine in api.instances()}


def test_one_that_is_listed_as_terminated_costs_nothing_and_one_that_is_terminating_may(cloud: LoopbackLambda) -> None:
    cloud.add(NAME, status="terminated")
    last = cloud.add(NAME, status="terminating")
    assert [machine.id for machine in client(cloud).named(NAME)] == [last]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(400, "instance-operations/launch/insufficient-capacity"), NoCapacity),
        (Fault(400, "global/quota-exceeded"), QuotaReached),
        (Fault(400, "global/invalid-parameters"), LambdaRefused),
        (Fault(429, "global/too-many-requests", headers=(("Retry-After", "7"),)), RateLimited),
        (Fault(401, "global/invalid-api-key"), KeyRefused),
        (Fault(403, "global/account-inactive"), KeyRefused),
        (Fault(403, body=b"<html>"), KeyRefused),
    ],
)
def test_a_launch_that_is_refused_made_nothing_and_is_not_sent_again(
    cloud: LoopbackLambda, fault: Fault, error: type[LambdaProblem | KeyRefused]
) -> None:
    cloud.faults[LAUNCH] = [fault]
    with pytest.raises(error) as refused:
        launch(client(cloud))
    assert type(refused.value) is error
    assert cloud.count(LAUNCH) == 1
    assert KEY not in str(refused.value)
    if isinstance(refused.value, KeyRefused):
        assert refused.value.exit_code == 4
        assert refused.value.next_step
    if isinstance(refused.value, RateLimited):
        assert refused.value.retry_after_s == 7


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, works=True),
        Fault(502, works=False),
        Fault(408, works=True),
        Fault(cut=True, works=True),
        Fault(200, works=True, body=b'{"data": {"instance_ids": []}}'),
        Fault(200, works=True, body=b'{"data": {"instance_ids": ["a", "b"]}}'),
        Fault(200, works=True, body=b"<html>"),
        Fault(302, works=True, headers=(("Location", "/elsewhere"),)),
    ],
)
def test_a_launch_that_may_have_worked_is_uncertain_and_is_sent_once(cloud: LoopbackLambda, fault: Fault) -> None:
    cloud.faults[LAUNCH] = [fault]
    api = client(cloud)
    with pytest.raises(CreateUncertain) as uncertain:
        launch(api)
    assert NAME in uncertain.value.what
    assert uncertain.value.costing
    assert cloud.count(LAUNCH) == 1
    assert len(api.named(NAME)) == int(fault.works)


def test_a_launch_that_never_reached_anybody_is_certain() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        nobody = LoopbackLambda(address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(LambdaUnreachable) as unreachable:
            launch(client(nobody))
    assert not unreachable.value.sent
    assert "refused" in unreachable.value.why


def test_a_launch_without_an_answer_in_time_is_uncertain() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = LoopbackLambda(address=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(CreateUncertain):
            launch(client(nobody, timeout_s=0.2))


def test_an_answer_that_drips_is_given_up() -> None:
    """Each byte comes within the time-out of the socket; after 30 s the line is cut, which is another error."""
    given_up = threading.Event()
    last = time.monotonic() + 30

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not given_up.wait(0.05) and time.monotonic() < last:
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=[server])
        thread.start()
        nobody = LoopbackLambda(address=f"http://127.0.0.1:{server.getsockname()[1]}")
        api = LambdaApi(KEY, {"LAUNCH_LAMBDA_URL": nobody.address}, timeout_s=2, patience_s=0)
        with pytest.raises(LambdaUnreachable, match="timed out"):
            api.instances()
        given_up.set()
        thread.join()


@pytest.mark.parametrize("fault", [Fault(429), Fault(500), Fault(503, body=b"<html>"), Fault(cut=True)])
@pytest.mark.parametrize("operation", [LIST, TERMINATE])
def test_what_can_be_repeated_is_until_it_works(cloud: LoopbackLambda, operation: str, fault: Fault) -> None:
    mine = cloud.add(NAME)
    cloud.faults[operation] = [fault] * 4
    clock = Time()
    api = client(cloud, clock=clock)
    if operation == LIST:
        assert len(api.instances()) == 1
    else:
        api.terminate([mine])
        assert cloud.named(NAME) == []
    assert cloud.count(operation) == 5
    assert clock.waited == [0.5, 1, 2, 4]


def test_it_is_given_up_in_half_a_minute_and_a_list_that_cannot_be_read_is_never_an_empty_one(
    cloud: LoopbackLambda,
) -> None:
    clock = Time()
    cloud.faults[LIST] = [Fault(429)] * 100
    with pytest.raises(RateLimited):
        client(cloud, clock=clock).instances()
    assert 15 < clock.now <= 30
    for body in (b"{}", b"[]", b'{"data": null}', b'{"data": [{"id": "1"}]}', b"\xff"):
        cloud.faults[LIST] = [Fault(200, body=body)]
        with pytest.raises(LambdaUnreachable, match="not a list of instances"):
            client(cloud).instances()


def test_the_time_that_lambda_asks_for_is_waited(cloud: LoopbackLambda) -> None:
    clock = Time()
    cloud.faults[LIST] = [Fault(429, headers=(("Retry-After", "9"),)), Fault(429, headers=(("Retry-After", "soon"),))]
    client(cloud, clock=clock).instances()
    assert clock.waited == [9, 8]


def test_a_key_that_is_refused_is_not_tried_again_and_stands_in_no_message(cloud: LoopbackLambda) -> None:
    with pytest.raises(KeyRefused) as refused:
        client(cloud, key="another_key").instances()
    assert refused.value.exit_code == 4
    assert cloud.count(LIST) == 1
    assert "another_key" not in str(refused.value)


def test_ids_that_lambda_knows_no_more_keep_no_other_machine_alive(cloud: LoopbackLambda) -> None:
    mine = cloud.add(NAME)
    cloud.faults[TERMINATE] = [Fault(404, "global/object-does-not-exist")] * 2
    client(cloud).terminate(["gone", mine])
    assert cloud.named(NAME) == []
    assert [body["instance_ids"] for _, body in cloud.asked] == [["gone", mine], ["gone"], [mine]]
    client(cloud).terminate([])
    assert cloud.count(TERMINATE) == 3


def test_a_public_key_is_added_once_and_found_whatever_its_name_and_comment(cloud: LoopbackLambda) -> None:
    cloud.keys.append({"id": "1", "name": "launch", "public_key": "ssh-ed25519 AAAAother somebody"})
    api = client(cloud)
    assert api.ensure_ssh_key("launch", f"{PUBLIC} me@here\n") == "launch-2"
    assert api.ensure_ssh_key("launch", PUBLIC) == "launch-2"
    assert len(cloud.keys) == 2


def test_a_key_that_was_added_though_the_answer_says_no_is_found(cloud: LoopbackLambda) -> None:
    cloud.faults["POST ssh-keys"] = [Fault(500, works=True)]
    assert client(cloud).ensure_ssh_key("launch", PUBLIC) == "launch"
    cloud.keys.clear()
    cloud.faults["POST ssh-keys"] = [Fault(500)]
    with pytest.raises(LambdaUnreachable):
        client(cloud).ensure_ssh_key("launch", PUBLIC)


def test_the_real_service_is_asked_once_a_second_and_for_a_machine_five_times_a_minute() -> None:
    clock = Time()
    pace = Pace(monotonic=clock.monotonic, sleep=clock.sleep)
    for _ in range(3):
        pace.wait("any", 1)
    assert clock.now == 2
    pace.wait("launch", 12)
    pace.wait("launch", 12)
    assert clock.now == 14
    clock.now += 100
    pace.wait("launch", 12)
    assert clock.now == 114


def test_an_address_without_tls_elsewhere_is_not_given_the_key() -> None:
    for address in ("http://cloud.example", "http://127.0.0.1.example", "ftp://127.0.0.1", "cloud.lambda.ai"):
        with pytest.raises(LambdaUnreachable, match="not an https address"):
            LambdaApi(KEY, {"LAUNCH_LAMBDA_URL": address})
    assert LambdaApi(KEY, {}).address == "https://cloud.lambda.ai"


def test_a_name_or_user_data_that_lambda_would_not_take_is_not_sent(cloud: LoopbackLambda) -> None:
    api = client(cloud)
    for name, data in (("x" * 65, ""), (NAME, "x" * 1_000_001)):
        with pytest.raises(ValueError, match="characters"):
            api.launch(name=name, region="r", instance_type="t", ssh_key_name="k", user_data=data)
    assert cloud.asked == []


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".lambda_cloud" / "lambda_keys"
    file.parent.mkdir()
    file.write_text(f"api_key = {KEY}\n")
    return file


def test_a_key_that_every_user_can_read_is_refused_with_its_remedy(key_file: Path) -> None:
    key_file.chmod(0o644)
    key_file.parent.chmod(0o755)
    with pytest.raises(CredentialProblem) as refused:
        lambda_key({})
    assert refused.value.exit_code == 4
    assert refused.value.next_step.startswith(f"chmod 600 {key_file}")
    assert KEY not in str(refused.value)
    key_file.chmod(0o600)
    assert lambda_key({}) == KEY


def test_a_folder_that_nobody_else_enters_keeps_its_key_private(key_file: Path) -> None:
    key_file.chmod(0o644)
    key_file.parent.chmod(0o700)
    assert lambda_key({}) == KEY
