"""Lambda's live prices: the real HTTP client against a server on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from artifacts.errors import CredentialProblem
from jobs.home import Home
from jobs.lambda_http import LARGEST_ANSWER
from jobs.offer import Offer
from launcher import lambda_prices
from launcher.offers import Gathered, gather
from tests.catalogues import files

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = "secret_launch_0123456789abcdef"


def entry(cents: object, gpu: str, regions: tuple[str, ...], gpus: int = 1, **more: object) -> dict[str, object]:
    return {
        "instance_type": {
            "price_cents_per_hour": cents,
            "gpu_description": gpu,
            "specs": {"vcpus": 30, "memory_gib": 222, "storage_gib": 512, "gpus": gpus},
            **more,
        },
        "regions_with_capacity_available": [{"name": name, "description": "somewhere"} for name in regions],
    }


@dataclass
class Lambda:
    """What it answers, and what it was asked."""

    status: int = 200
    data: dict[str, object] = field(default_factory=dict[str, object])
    body: bytes | None = None
    location: str | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    address: str = ""


@pytest.fixture
def cloud() -> Iterator[Lambda]:
    state = Lambda()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers["Authorization"]))
            body = state.body if state.body is not None else json.dumps({"data": state.data}).encode()
            self.send_response(state.status)
            if state.location:
                self.send_header("Location", state.location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_small(tmp_path / "catalogs")
    (tmp_path / "state").mkdir()
    return Home(tmp_path / "state")


def ask(home: Home, address: str, *clouds: str, key: str | None = KEY) -> Gathered:
    environ = {"LAUNCH_CATALOGS": str(home.root.parent / "catalogs"), "LAUNCH_LAMBDA_URL": address}
    if key is not None:
        environ["LAMBDA_API_KEY"] = key
    return gather(home, device="cpu", clouds=clouds or ("lambda", "aws"), environ=environ, now=datetime.now(UTC))


def at(found: Gathered, kind: str) -> dict[str | None, Offer]:
    return {offer.region: offer for offer in found.offers if offer.instance_type == kind}


def test_a_live_price_replaces_the_catalogues_and_says_where_there_is_capacity(cloud: Lambda, home: Home) -> None:
    cloud.data = {"gpu_1x_a10": entry(139, "A10 (24 GB PCIe)", ("us-west-2",))}
    found = ask(home, cloud.address)
    assert cloud.asked == [("/api/v1/instance-types", f"Bearer {KEY}")]
    offers = at(found, "gpu_1x_a10")
    assert {region: offer.capacity for region, offer in offers.items()} == {"us-east-1": False, "us-west-2": True}
    assert {offer.price_per_hour for offer in offers.values()} == {1.39}
    assert {(offer.disk_gib, offer.ram_gib, offer.cores) for offer in offers.values()} == {(512.0, 222.0, 30)}
    assert {offer.price_source for offer in offers.values()} == {"Lambda's API"}
    assert all(offer == Offer.model_validate(offer.model_dump()) for offer in offers.values())
    unnamed = at(found, "gpu_1x_gh200")["us-east-1"]
    assert (unnamed.capacity, unnamed.price_per_hour, unnamed.price_source) == (False, 2.29, "")
    assert {offer.capacity for offer in at(found, "g5.xlarge").values()} == {None}


def test_types_and_regions_that_the_catalogue_lacks_are_offers_where_there_is_capacity(
    cloud: Lambda, home: Home
) -> None:
    cloud.data = {
        "gpu_1x_a10": entry(129, "A10 (24 GB PCIe)", ("us-south-1",)),
        "gpu_2x_b200": entry(998, "B200 (180 GB SXM6)", ("us-south-2",), gpus=2),
        "gpu_1x_h100_sxm5": entry(429, "H100 (80 GB SXM5)", ()),
        "gpu_1x_z": entry(100, "Z9000 (7 GB)", ("us-south-2",)),
        "cpu_4x_general": entry(10, "N/A", ("us-south-2",), gpus=0),
    }
    found = ask(home, cloud.address)
    (new,) = at(found, "gpu_2x_b200").values()
    assert (new.gpus, new.gpu, new.vram_gib, new.price_per_hour, new.capacity) == (2, "B200", 180.0, 9.98, True)
    assert at(found, "gpu_1x_a10")["us-south-1"].capacity
    assert not at(found, "gpu_1x_h100_sxm5")
    assert not at(found, "cpu_4x_general")
    assert [note for note in found.notes if "gpu_1x_z" in note and "Z9000" in note]


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("A10 (24 GB PCIe)", "A10"),
        ("A100 (40 GB SXM4)", "A100"),
        ("A100 (40 GB PCIe)", "A100"),
        ("A100 (80 GB SXM4)", "A100-80GB"),
        ("H100 (80 GB SXM5)", "H100"),
        ("H100 (80 GB PCIe)", "H100-PCIe"),
        ("GH200 (96 GB)", "GH200"),
        ("RTX 6000 (24 GB)", "RTX6000"),
        ("A6000 (48 GB)", "A6000"),
        ("Tesla V100 (16 GB)", "V100"),
        ("B200 (180 GB SXM6)", "B200"),
    ],
)
def test_gpus_as_lambda_describes_them(cloud: Lambda, home: Home, described: str, name: str) -> None:
    cloud.data = {"gpu_new": entry(200, described, ("us-south-1",))}
    (offer,) = at(ask(home, cloud.address), "gpu_new").values()
    assert offer.gpu == name


def test_a_known_name_with_a_memory_of_another_size_is_not_guessed(cloud: Lambda, home: Home) -> None:
    cloud.data = {"gpu_new": entry(200, "H100 (96 GB SXM5)", ("us-south-1",))}
    found = ask(home, cloud.address)
    assert not at(found, "gpu_new")
    assert [note for note in found.notes if "H100 (96 GB SXM5)" in note]


@pytest.mark.parametrize("cents", [0, -1, "many", None, float("nan"), float("inf")])
def test_a_live_price_that_cannot_be_is_named_and_the_catalogues_is_used(
    cloud: Lambda, home: Home, cents: object
) -> None:
    cloud.data = {"gpu_1x_a10": entry(cents, "A10 (24 GB PCIe)", ("us-east-1",)),
                  "gpu_1x_a100_sxm4": entry(210, "A100 (40 GB SXM4)", ("us-east-1",))}  # fmt: skip
    found = ask(home, cloud.address)
    assert [note for note in found.notes if "gpu_1x_a10" in note and "price_cents_per_hour" in note]
    assert {offer.price_per_hour for offer in at(found, "gpu_1x_a10").values()} == {1.29}
    assert {offer.price_per_hour for offer in at(found, "gpu_1x_a100_sxm4").values()} == {2.10}


def test_a_live_price_far_below_the_last_one_is_not_used(cloud: Lambda, home: Home) -> None:
    cloud.data = {"gpu_1x_a10": entry(129, "A10 (24 GB PCIe)", ("us-east-1",))}
    ask(home, cloud.address)
    cloud.data = {"gpu_1x_a10": entry(1, "A10 (24 GB PCIe)", ("us-east-1",))}
    found = ask(home, cloud.address)
    assert not at(found, "gpu_1x_a10")
    assert [note for note in found.notes if "gpu_1x_a10 is not used: $0.01" in note]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_an_error_for_lambda_alone_and_else_a_note(
    cloud: Lambda, home: Home, status: int
) -> None:
    cloud.status, cloud.body = status, b'{"error": {"code": "global/invalid-api-key", "message": "x"}}'
    found = ask(home, cloud.address)
    (note,) = found.notes
    assert "does not accept the API key" in note
    assert KEY not in note
    assert {offer.price_per_hour for offer in at(found, "gpu_1x_a10").values()} == {1.29}
    with pytest.raises(CredentialProblem) as refused:
        ask(home, cloud.address, "lambda")
    assert refused.value.exit_code == 4
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, b"", "answered 500"),
        (429, b"{}", "answered 429"),
        (200, b"<html>", "not a list of instance types"),
        (200, b'{"data": []}', "not a list of instance types"),
        (200, b"\xff\xfe", "not a list of instance types"),
        (200, b" " * (LARGEST_ANSWER + 1), "larger than 4 MiB"),
    ],
)
def test_an_answer_that_is_none_leaves_the_catalogue(
    cloud: Lambda, home: Home, status: int, body: bytes, says: str
) -> None:
    cloud.status, cloud.body = status, body
    for clouds in (("lambda",), ("lambda", "aws")):
        found = ask(home, cloud.address, *clouds)
        assert says in found.notes[0]
        assert {offer.price_per_hour for offer in at(found, "gpu_1x_a10").values()} == {1.29}


def test_the_key_follows_no_redirect(cloud: Lambda, home: Home) -> None:
    cloud.status, cloud.location = 302, f"{cloud.address}/elsewhere"
    found = ask(home, cloud.address)
    assert "answered 302" in found.notes[0]
    assert len(cloud.asked) == 1


def test_an_address_without_tls_is_not_given_the_key(home: Home) -> None:
    assert "not an https address" in ask(home, "http://cloud.example").notes[0]


def test_a_server_that_is_not_there_leaves_the_catalogue(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        found = ask(home, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert "refused" in found.notes[0]
    assert at(found, "gpu_1x_a10")


def test_a_server_that_never_answers_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_prices, "TIMEOUT_S", 0.2)
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = ask(home, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "timed out" in found.notes[0]
    assert time.monotonic() - start < 5


def test_the_key_is_read_as_skypilot_reads_it_and_without_one_nobody_is_asked(cloud: Lambda, home: Home) -> None:
    assert ask(home, cloud.address, key=None).notes == ()
    assert cloud.asked == []
    file = Path.home() / ".lambda_cloud" / "lambda_keys"
    file.parent.mkdir(mode=0o700)
    file.write_text(f"ssh_key_name = x\napi_key = {KEY}\n")
    ask(home, cloud.address, key=None)
    assert cloud.asked == [("/api/v1/instance-types", f"Bearer {KEY}")]


@pytest.mark.parametrize("text", ["", "api_key =\n", "api_key = two words\n", "api_key = k\u00e9y\n", "key = x\n"])
def test_a_key_file_without_a_key_is_an_error_that_does_not_print_it(cloud: Lambda, home: Home, text: str) -> None:
    file = Path.home() / ".lambda_cloud" / "lambda_keys"
    file.parent.mkdir(mode=0o700)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CredentialProblem) as refused:
        ask(home, cloud.address, "lambda", key=None)
    assert "api_key = KEY" in refused.value.next_step
    assert "words" not in str(refused.value)
    assert len(ask(home, cloud.address, key=None).notes) == 1
    assert cloud.asked == []
