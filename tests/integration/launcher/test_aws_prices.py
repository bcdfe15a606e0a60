"""AWS's live prices: boto3 against moto's server where moto has the question, and against a server on loopback."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pexpect
import pytest
from moto.server import ThreadedMotoServer

from artifacts.errors import CredentialProblem
from jobs.home import Home
from jobs.offer import Offer
from launcher import aws_prices
from launcher.offers import Gathered, gather
from tests.catalogues import files
from tests.catalogues.aws_server import Aws, product, serve, spot

KEY, SECRET, TOKEN = "AKIAQUESTION1234567", "SECRETSECRETSECRET", "TOKENTOKENTOKEN"
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
ON_DEMAND = {"g5.xlarge": 1.006, "g6e.xlarge": 1.861, "p4d.24xlarge": 21.96, "p5.48xlarge": 55.04}
SPOT = {"g5.xlarge": 0.45, "g6e.xlarge": 0.80, "p4d.24xlarge": 9.0, "p5.48xlarge": 20.0}
REGIONS = ("us-east-1", "eu-west-1")


@pytest.fixture
def cloud() -> Iterator[Aws]:
    with serve() as state:
        state.products = {kind: [product(kind, region, str(usd * 2)) for region in REGIONS]
                          for kind, usd in ON_DEMAND.items()}  # fmt: skip
        state.spots = {region: [spot(kind, f"{region}a", str(usd * 2)) for kind, usd in SPOT.items()]
                       for region in REGIONS}  # fmt: skip
        yield state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_small(tmp_path / "catalogs")
    (tmp_path / "state").mkdir()
    return Home(tmp_path / "state")


def ask(home: Home, address: str, *clouds: str, **environ: str) -> Gathered:
    found = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    found |= {"LAUNCH_CATALOGS": str(home.root.parent / "catalogs"), "AWS_ENDPOINT_URL": address}
    return gather(home, device="cpu", clouds=clouds or ("lambda", "aws"),
                  environ=found | (environ or KEYS), now=datetime.now(UTC))  # fmt: skip


def prices(found: Gathered, *, spot: bool) -> dict[tuple[str, str | None], float]:
    return {
        (offer.instance_type, offer.region): offer.price_per_hour
        for offer in found.offers
        if offer.cloud == "aws" and offer.spot == spot
    }


def catalogue(*, spot: bool, times: float = 1) -> dict[tuple[str, str], float]:
    known = SPOT if spot else ON_DEMAND
    return {(kind, region): usd * times for kind, usd in known.items() for region in REGIONS}


def is_the_catalogues(found: Gathered) -> bool:
    sources = {offer.price_source for offer in found.offers if offer.cloud == "aws"}
    return sources == {""} and all(prices(found, spot=kind) == catalogue(spot=kind) for kind in (True, False))


def silent(found: Gathered) -> bool:
    text = "\n".join(found.notes)
    return not any(secret in text for secret in (KEY, SECRET, TOKEN, "SECRETSIGNATURE"))


def test_live_prices_replace_the_catalogues_on_demand_and_spot(cloud: Aws, home: Home) -> None:
    found = ask(home, cloud.address)
    assert found.notes == ()
    assert prices(found, spot=False) == pytest.approx(catalogue(spot=False, times=2))
    assert prices(found, spot=True) == pytest.approx(catalogue(spot=True, times=2))
    offers = [offer for offer in found.offers if offer.cloud == "aws"]
    assert {offer.price_source for offer in offers} == {"AWS's API"}
    assert {offer.capacity for offer in offers} == {None}
    moments = {offer.price_as_of for offer in offers}
    assert len(moments) == 1
    assert all(offer == Offer.model_validate(offer.model_dump()) for offer in offers)


def test_a_type_is_asked_for_once_and_a_region_once(cloud: Aws, home: Home) -> None:
    ask(home, cloud.address)
    assert sorted(cloud.asked) == [("pricing", kind) for kind in sorted(ON_DEMAND)] + [
        ("spot", region) for region in sorted(REGIONS)
    ]


def test_spot_prices_come_from_motos_ec2(cloud: Aws, home: Home) -> None:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        found = ask(home, cloud.address, "aws", **KEYS, AWS_ENDPOINT_URL_EC2=f"http://{host}:{port}")
    finally:
        server.stop()
    assert not [kind for asked, kind in cloud.asked if asked == "spot"]
    # moto's only spot price is $0.00001: that it arrived is seen by its being no price.
    assert [note for note in found.notes if note.startswith("aws g5.xlarge spot is not used: $0.00 an hour")]
    assert not [place for place in prices(found, spot=True) if place[0] == "g5.xlarge"]
    assert prices(found, spot=False) == pytest.approx(catalogue(spot=False, times=2))


def test_of_a_zone_the_last_price_is_in_effect_and_of_zones_the_cheapest(cloud: Aws, home: Home) -> None:
    cloud.spots["us-east-1"] = [
        spot("g5.xlarge", "us-east-1a", "0.10", hours_ago=2),
        spot("g5.xlarge", "us-east-1a", "0.70", hours_ago=1),
        spot("g5.xlarge", "us-east-1b", "0.60", hours_ago=3),
        spot("g5.xlarge", "us-east-1b", "0.20", hours_ago=9),
    ]
    assert prices(ask(home, cloud.address), spot=True)["g5.xlarge", "us-east-1"] == 0.60


def test_every_page_is_read_and_of_two_products_the_dearer_is_paid(cloud: Aws, home: Home) -> None:
    cloud.page = 1
    cloud.products["g5.xlarge"] = [
        product("g5.xlarge", "us-east-1", "1.20"),
        product("g5.xlarge", "us-east-1", "1.30"),
        product("g5.xlarge", "us-east-1", "1.10"),
        product("g5.xlarge", "us-west-2-lax-1", "9.00"),
        product("g5.xlarge", "eu-west-1", "1.40"),
    ]
    found = prices(ask(home, cloud.address), spot=False)
    assert (found["g5.xlarge", "us-east-1"], found["g5.xlarge", "eu-west-1"]) == (1.30, 1.40)
    assert len(found) == len(catalogue(spot=False))


@pytest.mark.parametrize("usd", ["0.0000000000", "NaN", "inf", "-1", "free", ""])
def test_a_price_that_cannot_be_is_named_and_the_catalogues_is_used(cloud: Aws, home: Home, usd: str) -> None:
    cloud.products["g5.xlarge"] = [product("g5.xlarge", region, usd) for region in REGIONS[:1]]
    cloud.products["g5.xlarge"].append(product("g5.xlarge", "eu-west-1", "1.11"))
    cloud.spots["us-east-1"][0]["SpotPrice"] = usd
    found = ask(home, cloud.address)
    assert prices(found, spot=False)["g5.xlarge", "us-east-1"] == 1.006
    assert prices(found, spot=False)["g5.xlarge", "eu-west-1"] == 1.11
    assert prices(found, spot=True)["g5.xlarge", "us-east-1"] == 0.45
    assert sorted(note.partition(":")[0] for note in found.notes) == [
        "AWS's live price of g5.xlarge in us-east-1 is not used",
        "AWS's live price of g5.xlarge spot in us-east-1 is not used",
    ]


def test_a_product_without_an_hourly_price_is_named(cloud: Aws, home: Home) -> None:
    cloud.products["g5.xlarge"] = [product("g5.xlarge", region, "1", terms={}) for region in REGIONS]
    found = ask(home, cloud.address)
    assert prices(found, spot=False)["g5.xlarge", "us-east-1"] == 1.006
    assert len([note for note in found.notes if "g5.xlarge" in note and "it is missing" in note]) == 2


def test_a_live_price_far_from_the_last_one_is_not_used(cloud: Aws, home: Home) -> None:
    ask(home, cloud.address)
    cloud.products["g5.xlarge"] = [product("g5.xlarge", region, "0.01") for region in REGIONS]
    found = ask(home, cloud.address)
    assert ("g5.xlarge", "us-east-1") not in prices(found, spot=False)
    assert [note for note in found.notes if "g5.xlarge is not used: $0.01" in note]


def test_what_aws_does_not_sell_keeps_the_catalogues_price_and_is_named(cloud: Aws, home: Home) -> None:
    del cloud.products["p5.48xlarge"]
    found = ask(home, cloud.address)
    assert prices(found, spot=False)["p5.48xlarge", "eu-west-1"] == 55.04
    (note,) = found.notes
    assert "AWS names no price of p5.48xlarge in" in note


def test_without_credentials_nobody_is_asked(cloud: Aws, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_prices.sys, "executable", "/nonexistent")  # nothing is even started
    found = ask(home, cloud.address, "aws", AWS_REGION="us-east-1")
    assert is_the_catalogues(found)
    assert found.notes == ()
    assert cloud.asked == []


def test_a_config_without_credentials_asks_nobody_and_never_the_metadata_service(cloud: Aws, home: Home) -> None:
    config = Path.home() / ".aws" / "config"
    config.parent.mkdir()
    config.write_text("[default]\nregion = us-east-1\n")
    found = ask(home, cloud.address, "aws", AWS_EC2_METADATA_SERVICE_ENDPOINT=cloud.address)
    assert is_the_catalogues(found)
    assert found.notes == ()
    assert cloud.asked == []


def test_a_profile_is_read_from_the_files_as_boto3_does(cloud: Aws, home: Home) -> None:
    file = Path.home() / ".aws" / "credentials"
    file.parent.mkdir()
    file.write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    assert ask(home, cloud.address, AWS_PROFILE="work").notes == ()
    assert cloud.asked


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"])
def test_refused_credentials_are_an_error_for_aws_alone_and_else_a_note(cloud: Aws, home: Home, code: str) -> None:
    cloud.failing = {"pricing": code, "spot": "RequestExpired" if "Expired" in code else "AuthFailure"}
    found = ask(home, cloud.address)
    (note,) = found.notes
    assert ("has expired" if "Expired" in code else "does not accept the credentials") in note
    assert "aws sso login" in note
    assert is_the_catalogues(found)
    assert silent(found)
    with pytest.raises(CredentialProblem) as refused:
        ask(home, cloud.address, "aws")
    assert refused.value.exit_code == 4
    assert KEY not in str(refused.value)
    assert "SECRETSIGNATURE" not in str(refused.value)


def test_a_denied_permission_is_named_and_the_other_prices_are_live(cloud: Aws, home: Home) -> None:
    cloud.failing = {"pricing": "AccessDeniedException"}
    found = ask(home, cloud.address, "aws")
    (note,) = found.notes
    assert "this user may not call pricing:GetProducts" in note
    assert "g5.xlarge" in note
    assert silent(found)
    assert prices(found, spot=False) == catalogue(spot=False)
    assert prices(found, spot=True) == pytest.approx(catalogue(spot=True, times=2))
    cloud.failing = {"spot": "UnauthorizedOperation"}
    found = ask(home, cloud.address, "aws")
    (note,) = found.notes
    assert "this user may not call ec2:DescribeSpotPriceHistory" in note
    assert prices(found, spot=True) == catalogue(spot=True)
    assert prices(found, spot=False) == pytest.approx(catalogue(spot=False, times=2))


def test_denied_everything_is_two_notes_and_no_error(cloud: Aws, home: Home) -> None:
    cloud.failing = {"pricing": "AccessDeniedException", "spot": "UnauthorizedOperation"}
    found = ask(home, cloud.address, "aws")
    assert len(found.notes) == 2
    assert is_the_catalogues(found)


def test_a_user_whom_aws_knows_has_no_bad_credentials(cloud: Aws, home: Home) -> None:
    cloud.failing = {"pricing": "AccessDeniedException", "spot": "AuthFailure"}
    found = ask(home, cloud.address, "aws")
    assert [note for note in found.notes if "may not call pricing:GetProducts" in note]
    assert [note for note in found.notes if "enable-region" in note]


def test_a_region_that_the_account_has_not_enabled_is_a_note(cloud: Aws, home: Home) -> None:
    cloud.failing = {"eu-west-1": "AuthFailure"}
    found = ask(home, cloud.address, "aws")
    (note,) = found.notes
    assert "spot prices of eu-west-1" in note
    assert "enable-region" in note
    assert prices(found, spot=True)["g5.xlarge", "us-east-1"] == pytest.approx(0.90)
    assert prices(found, spot=True)["g5.xlarge", "eu-west-1"] == 0.45


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "InvalidSignatureException"])
def test_a_clock_that_is_off_is_said(cloud: Aws, home: Home, code: str) -> None:
    cloud.failing = {"pricing": code, "spot": "RequestTimeTooSkewed"}
    cloud.message = "Signature expired: 20261124T100000Z is now earlier than 20261124T110000Z"
    found = ask(home, cloud.address, "aws")
    assert len(found.notes) == 2
    assert all("this machine's clock is off" in note and "timedatectl" in note for note in found.notes)
    assert is_the_catalogues(found)


@pytest.mark.parametrize(
    ("code", "says"),
    [("ThrottlingException", "asked too often"), ("InternalErrorException", "it answered InternalErrorException")],
)
def test_an_error_of_awss_own_is_a_note(cloud: Aws, home: Home, code: str, says: str) -> None:
    cloud.failing = {"pricing": code}
    found = ask(home, cloud.address, "aws")
    (note,) = found.notes
    assert says in note
    assert prices(found, spot=False) == catalogue(spot=False)


@pytest.mark.parametrize(
    "body", [b"<html>", b"{", b"\xff\xfe", b'{"PriceList": ["no json"]}', b'{"PriceList": ["{}"]}']
)
def test_an_answer_that_is_none_leaves_the_catalogue(cloud: Aws, home: Home, body: bytes) -> None:
    cloud.body = body
    found = ask(home, cloud.address, "aws")
    assert [note for note in found.notes if "AWS gave no on-demand prices" in note]
    assert is_the_catalogues(found)


def test_a_server_that_is_not_there_leaves_the_catalogue(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        found = ask(home, f"http://127.0.0.1:{taken.getsockname()[1]}", "aws")
    assert len(found.notes) == 2
    assert all("cannot be reached (EndpointConnectionError)" in note for note in found.notes)
    assert is_the_catalogues(found)


def test_what_is_not_answered_in_time_keeps_the_catalogues_price(
    cloud: Aws, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_prices, "LIMIT_S", 6.0)
    cloud.silent_on = {"p5.48xlarge", "eu-west-1"}
    start = time.monotonic()
    found = ask(home, cloud.address, "aws")
    assert time.monotonic() - start < 10
    assert prices(found, spot=False)["g5.xlarge", "eu-west-1"] == pytest.approx(2.012)
    assert prices(found, spot=False)["p5.48xlarge", "eu-west-1"] == 55.04
    assert prices(found, spot=True)["g5.xlarge", "eu-west-1"] == 0.45
    assert [note for note in found.notes if "no on-demand prices of p5.48xlarge within 6 s" in note]
    assert [note for note in found.notes if "no spot prices of eu-west-1 within 6 s" in note]


def test_a_program_that_never_gives_credentials_is_ended_with_the_question(
    cloud: Aws, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_prices, "LIMIT_S", 3.0)
    os.mkfifo(tmp_path / "alive")
    program = tmp_path / "program.py"
    program.write_text("import sys, signal\nsys.stdin.read()\nfile = open(sys.argv[1], 'w')\n"
                       "print('here', file=file, flush=True)\nsignal.pause()\n")  # fmt: skip
    config = Path.home() / ".aws" / "config"
    config.parent.mkdir()
    config.write_text(f"[default]\ncredential_process = {sys.executable} {program} {tmp_path / 'alive'}\n")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = ask(home, cloud.address, "aws", AWS_REGION="us-east-1")
        assert os.read(reader, 5) == b"here\n"
        assert select.select([reader], [], [], 10)[0], "the program is still there, and says nothing"
        assert os.read(reader, 1) == b""  # its end is closed: the program is gone
    finally:
        os.close(reader)
    assert len(found.notes) == 2
    assert all("within 3 s" in note for note in found.notes)
    assert is_the_catalogues(found)


def test_a_profile_that_wants_a_code_is_not_asked_for_on_the_terminal(cloud: Aws, home: Home) -> None:
    folder = Path.home() / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(f"[base]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    (folder / "config").write_text(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/x\n"
    )
    with pytest.raises(CredentialProblem) as refused:
        ask(home, cloud.address, "aws", AWS_PROFILE="role")
    assert "MFA" in refused.value.why
    assert "get-session-token" in refused.value.next_step


def test_a_profile_that_wants_a_code_leaves_a_real_terminal_alone(cloud: Aws, home: Home) -> None:
    folder = Path.home() / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(f"[base]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    (folder / "config").write_text(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base\nmfa_serial = x\n"
    )
    program = (
        "import os; from datetime import UTC, datetime; from artifacts.errors import CredentialProblem\n"
        "from jobs.offer import Offer; from launcher.aws_prices import live_offers\n"
        "offer = Offer(cloud='aws', instance_type='g5.xlarge', region='us-east-1', price_per_hour=1)\n"
        "try: live_offers([offer], os.environ, datetime.now(UTC))\n"
        "except CredentialProblem as error: print(error.exit_code)\n"
    )
    environ = {"HOME": str(Path.home()), "AWS_PROFILE": "role", "AWS_ENDPOINT_URL": cloud.address,
               "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    terminal = pexpect.spawn(sys.executable, ["-P", "-c", program], env=environ, timeout=30, encoding="utf-8")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.before is not None
    assert terminal.before.split() == ["4"]


def test_an_endpoint_that_is_no_address_is_a_note(home: Home) -> None:
    found = ask(home, "nonsense", "aws")
    assert len(found.notes) == 2
    assert all("boto3 could not ask" in note and "ValueError" in note for note in found.notes)
    assert is_the_catalogues(found)


def test_a_role_that_may_not_be_taken_is_an_error_that_names_the_operation(cloud: Aws, home: Home) -> None:
    folder = Path.home() / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(f"[base]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    (folder / "config").write_text(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base\nregion = us-east-1\n"
    )
    cloud.failing = {"sts": "AccessDenied"}
    with pytest.raises(CredentialProblem) as refused:
        ask(home, cloud.address, "aws", AWS_PROFILE="role")
    assert "AccessDenied at AssumeRole" in refused.value.why
    assert "SECRETSIGNATURE" not in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE names a profile"),
        ({"AWS_ACCESS_KEY_ID": KEY}, "without its secret"),
        ({"AWS_ACCESS_KEY_ID": f"{KEY}\nX: 1", "AWS_SECRET_ACCESS_KEY": SECRET}, "holds spaces"),
    ],
)
def test_credentials_that_cannot_be_used_are_said_without_them(
    cloud: Aws, home: Home, environ: dict[str, str], says: str
) -> None:
    found = ask(home, cloud.address, **environ)
    assert [note for note in found.notes if says in note]
    assert silent(found)
    assert is_the_catalogues(found)
    assert cloud.asked == []


def test_without_boto3_a_note_says_what_to_install(cloud: Aws, home: Home, tmp_path: Path) -> None:
    (tmp_path / "shadow" / "botocore").mkdir(parents=True)
    (tmp_path / "shadow" / "botocore" / "__init__.py").write_text("raise ModuleNotFoundError('botocore')\n")
    for clouds in (("aws",), ("lambda", "aws")):
        found = ask(home, cloud.address, *clouds, **KEYS, PYTHONPATH=str(tmp_path / "shadow"))
        (note,) = found.notes
        assert "boto3 is not installed" in note
        assert "pip install 'dpo-launch[aws]'" in note
        assert is_the_catalogues(found)


def test_a_process_that_breaks_is_said(cloud: Aws, home: Home, tmp_path: Path) -> None:
    (tmp_path / "shadow" / "botocore").mkdir(parents=True)
    (tmp_path / "shadow" / "botocore" / "__init__.py").write_text(f"raise RuntimeError('{SECRET}')\n")
    found = ask(home, cloud.address, "aws", **KEYS, PYTHONPATH=str(tmp_path / "shadow"))
    assert "boto3's process ended with 1" in found.notes[0]
    assert silent(found)
    assert is_the_catalogues(found)
