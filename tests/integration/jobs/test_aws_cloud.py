"""Machines on AWS: boto3 against moto's server, with what AWS answers when it will not."""

from __future__ import annotations

import os
import runpy
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import CredentialProblem
from jobs.aws import network
from jobs.aws.account import Account, Keys
from jobs.aws.problems import AwsProblem, NotAllowed
from jobs.backends import OfferFailed
from jobs.backends.aws_cloud import AwsCloud
from jobs.backends.provider import CreateUncertain, Order
from jobs.offer import Offer
from tests.acceptance.aws_cloud.service import ACCOUNT, IMAGE_GIB, IMAGES, FakeAws

REGION = "us-east-1"
NAME = "launch-abc123-dpo-1-1-0011aabb-head"
ORDER = Order(NAME, "g6e.xlarge", REGION, "", "#cloud-config\n")
OFFER = Offer(cloud="aws", instance_type="g6e.xlarge", region=REGION, gpus=1, gpu="L40S", vram_gib=48,
              price_per_hour=1.5)  # fmt: skip
ZONES = [f"{REGION}{letter}" for letter in "abcd"]


def cloud(gpu: str = "L40S", needed_disk_gib: float = 0.0) -> AwsCloud:
    return AwsCloud(Account(os.environ), REGION, gpu=gpu, needed_disk_gib=needed_disk_gib)


def client(service: str = "ec2") -> Any:
    return Account(os.environ).client(service, REGION)


def image_list(folder: Path, *rows: tuple[str, str, str]) -> None:
    file = folder / ".sky/catalogs/v8/aws/images.csv"
    file.parent.mkdir(parents=True)
    lines = [f"{tag},{region},ubuntu,22.04,{image},20261001" for tag, region, image in rows]
    file.write_text("\n".join(["Tag,Region,OS,OSVersion,ImageId,CreationDate", *lines, ""]))


# ---- the machine ----


def test_a_machine_powers_off_into_its_end_and_is_closed_from_the_start(aws: FakeAws) -> None:
    made = cloud().create(ORDER)
    (one,) = aws.instances()
    assert one.id == made
    assert one.instance_initiated_shutdown_behavior == "terminate"
    assert (one.metadata_options.http_tokens, one.metadata_options.http_put_response_hop_limit) == ("required", 1)
    (disk,) = client().describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [made]}])["Volumes"]
    assert (disk["Encrypted"], disk["Size"]) == (True, IMAGE_GIB)
    assert one.block_device_mapping["/dev/sda1"].delete_on_termination
    assert one.key_name is None
    assert one.iam_instance_profile is None
    (group,) = client().describe_security_groups(Filters=[{"Name": "group-name", "Values": ["launch-abc123-*"]}])[
        "SecurityGroups"
    ]
    (rule,) = group["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], [each["CidrIp"] for each in rule["IpRanges"]]) == (
        22, 22, ["203.0.113.7/32"],
    )  # fmt: skip


def test_the_tags_are_those_by_which_skypilot_knows_a_head_node(aws: FakeAws) -> None:
    file = metadata.distribution("skypilot").locate_file("sky/provision/constants.py")
    names = runpy.run_path(str(file))  # without SkyPilot itself, which takes seconds and warns
    cloud().create(ORDER)
    (one,) = aws.instances()
    tags = {tag["key"]: tag["value"] for tag in one.get_tags()}
    assert tags[names["TAG_RAY_CLUSTER_NAME"]] == tags[names["TAG_SKYPILOT_CLUSTER_NAME"]] == NAME[: -len("-head")]
    assert names["HEAD_NODE_TAGS"].items() <= tags.items()


def test_it_is_listed_by_its_name_until_it_is_terminated(aws: FakeAws) -> None:
    provider = cloud()
    assert provider.named(NAME) == []
    made = provider.create(ORDER)
    (found,) = provider.named(NAME)
    assert (found.id, found.active, found.healthy, found.address) == (made, True, True, "127.0.0.1")
    assert provider.all() == [found]
    assert provider.named(NAME[:-1]) == []
    provider.terminate([made])
    assert provider.named(NAME) == []
    provider.terminate([made, "i-0123456789abcdef0"])  # gone, and never there: neither is an error


def test_a_machine_that_somebody_stopped_is_listed_and_not_healthy(aws: FakeAws) -> None:
    made = cloud().create(ORDER)
    client().stop_instances(InstanceIds=[made])
    (found,) = cloud().named(NAME)
    assert (found.active, found.healthy) == (False, False)


# ---- zones ----


def test_a_zone_without_room_is_passed_over(aws: FakeAws) -> None:
    for zone in ZONES[:2]:
        aws.fail("RunInstances", "InsufficientInstanceCapacity", status=500, zone=zone)
    cloud().create(ORDER)
    (one,) = aws.instances()
    assert one.placement.zone == ZONES[2]
    tokens = [asked.body["ClientToken"] for asked in aws.operations("RunInstances")]
    assert len(set(tokens)) == 3, "one token a zone"


def test_no_zone_with_room_is_one_refusal_that_names_them_all(aws: FakeAws) -> None:
    aws.fail("RunInstances", "InsufficientInstanceCapacity", status=500, times=9)
    with pytest.raises(OfferFailed, match=r"no room for g6e\.xlarge in any zone of us-east-1") as refused:
        cloud().create(ORDER)
    assert all(f"{zone}: InsufficientInstanceCapacity" in refused.value.why for zone in ZONES)
    assert aws.instances() == []
    assert len(aws.operations("RunInstances")) == len(ZONES), "boto3 repeats none of them"


def test_a_type_that_a_zone_does_not_have_is_asked_for_in_the_next(aws: FakeAws) -> None:
    aws.fail("RunInstances", "Unsupported", zone=ZONES[0])
    cloud().create(ORDER)
    assert aws.instances()[0].placement.zone == ZONES[1]


def test_p3_is_asked_for_only_where_it_is_offered(aws: FakeAws) -> None:
    cloud("V100")  # no request yet
    assert network.zones_offering(Account(os.environ), "p3.2xlarge", REGION) == ZONES[:2]
    with pytest.raises(OfferFailed, match=r"AWS has no p9\.nothing in us-east-1"):
        cloud().quote(OFFER.model_copy(update={"instance_type": "p9.nothing"}))


def test_what_aws_retired_is_said_where_it_is_gone(aws: FakeAws) -> None:
    with pytest.raises(OfferFailed, match=r"AWS has no p3dn\.48xlarge") as refused:
        cloud("V100").quote(OFFER.model_copy(update={"instance_type": "p3dn.48xlarge"}))
    assert "g6e.xlarge" in refused.value.why


# ---- what it costs, and may ----


def test_a_quote_is_the_price_of_now_with_disk_and_address(aws: FakeAws) -> None:
    aws.products["g6e.xlarge", REGION] = 1.861
    usd = cloud().quote(OFFER).price_per_hour
    assert usd == pytest.approx(1.861 + 0.005 + IMAGE_GIB * 0.16 / 730)
    aws.products.clear()
    assert cloud().quote(OFFER).price_per_hour == pytest.approx(usd - 0.361), "the plan's, where AWS names none"


def test_prices_that_may_not_be_asked_for_are_the_plans(aws: FakeAws, capsys: pytest.CaptureFixture[str]) -> None:
    aws.fail("GetProducts", "AccessDeniedException")
    assert cloud().quote(OFFER).price_per_hour > OFFER.price_per_hour
    assert "may not call pricing:GetProducts" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "code", "vcpus"), [("g6e.xlarge", "L-DB2E81BA", 4), ("p3.8xlarge", "L-417A185B", 32)])
def test_a_quota_of_zero_is_named_with_where_it_is_raised(aws: FakeAws, kind: str, code: str, vcpus: int) -> None:
    aws.quotas[code] = 0.0
    with pytest.raises(OfferFailed) as refused:
        cloud().quote(OFFER.model_copy(update={"instance_type": kind}))
    said = refused.value.what
    assert f"({code}) of us-east-1 is 0 vCPUs, and {kind} has {vcpus}" in said
    assert f"https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}" in said


def test_a_quota_that_is_used_up_is_seen_in_the_create_call(aws: FakeAws) -> None:
    aws.fail("RunInstances", "VcpuLimitExceeded")
    with pytest.raises(OfferFailed, match=r"Running On-Demand G and VT instances \(L-DB2E81BA\) of us-east-1 is used"):
        cloud().create(ORDER)
    assert aws.instances() == []


# ---- disk and image ----


def test_the_root_volume_is_never_smaller_than_image_or_need(aws: FakeAws) -> None:
    assert cloud(needed_disk_gib=10).resources() == {"image_id": IMAGES[REGION], "disk_size": IMAGE_GIB}
    assert cloud(needed_disk_gib=100.2).resources()["disk_size"] == 141
    with pytest.raises(OfferFailed, match="a volume of AWS has 16,384 at most"):
        cloud(needed_disk_gib=17_000).quote(OFFER)


def test_volta_takes_the_image_with_the_proprietary_driver(aws: FakeAws, tmp_path: Path) -> None:
    with pytest.raises(OfferFailed, match="no image with a driver for V100"):
        cloud("V100").resources()
    theirs = client().describe_images(Filters=[{"Name": "name", "Values": ["*ubuntu*"]}])["Images"][0]["ImageId"]
    image_list(tmp_path, ("skypilot:custom-gpu-ubuntu-cuda13", REGION, IMAGES[REGION]),
               ("skypilot:custom-gpu-ubuntu", "us-west-2", IMAGES["us-west-2"]),
               ("skypilot:custom-gpu-ubuntu", REGION, theirs))  # fmt: skip
    assert cloud("V100").resources()["image_id"] == theirs
    assert cloud("L40S").resources()["image_id"] == IMAGES[REGION]


def test_an_image_that_is_gone_is_a_refusal(aws: FakeAws, tmp_path: Path) -> None:
    image_list(tmp_path, ("skypilot:custom-gpu-ubuntu-cuda13", REGION, "ami-0aaaaaaaaaaaaaaaa"))
    with pytest.raises(OfferFailed, match=r"InvalidAMIID\.NotFound"):
        cloud().quote(OFFER)


# ---- answers that are none ----


@pytest.mark.parametrize("fault", [{"status": 503, "code": "Unavailable"}, {"cut": True}, {"page": True}])
def test_a_create_call_that_is_answered_badly_leaves_it_to_the_list(aws: FakeAws, fault: dict[str, Any]) -> None:
    aws.fail("RunInstances", **{"though_it_works": True, **fault})
    with pytest.raises(CreateUncertain):
        cloud().create(ORDER)
    assert len(cloud().named(NAME)) == 1
    assert len(aws.operations("RunInstances")) == 1


def test_a_refusal_of_the_create_call_is_in_awss_own_words(aws: FakeAws) -> None:
    aws.fail("RunInstances", "InvalidBlockDeviceMapping", message="Volume of size 8GB is smaller than snapshot")
    with pytest.raises(OfferFailed, match=r"AWS refused RunInstances in us-east-1 \(InvalidBlockDeviceMapping\)") as no:
        cloud().create(ORDER)
    assert no.value.why == "Volume of size 8GB is smaller than snapshot"


def test_a_list_that_cannot_be_had_is_no_empty_list(aws: FakeAws) -> None:
    aws.fail("DescribeInstances", status=503, times=20)
    with pytest.raises(AwsProblem):
        cloud().named(NAME)


def test_a_terminate_that_is_refused_is_said(aws: FakeAws) -> None:
    provider = cloud()
    made = provider.create(ORDER)
    aws.fail("TerminateInstances", "OperationNotPermitted")
    with pytest.raises(AwsProblem, match="OperationNotPermitted"):
        provider.terminate([made])
    assert len(provider.named(NAME)) == 1


# ---- credentials ----


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("RunInstances", "ec2:RunInstances"),
        ("DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypeOfferings"),
        ("DescribeVpcs", "ec2:DescribeVpcs"),
        ("CreateSecurityGroup", "ec2:CreateSecurityGroup"),
        ("AuthorizeSecurityGroupIngress", "ec2:AuthorizeSecurityGroupIngress"),
    ],
)
def test_a_permission_that_is_missing_is_named(aws: FakeAws, operation: str, action: str) -> None:
    aws.fail(operation, "UnauthorizedOperation", status=403, times=9,
             message="You are not authorized. Encoded authorization failure message: AbC-dEf")  # fmt: skip
    with pytest.raises(NotAllowed, match=f"may not call {action}") as refused:
        cloud().create(ORDER)
    assert "AbC-dEf" not in str(refused.value)
    assert action in refused.value.next_step
    assert aws.instances() == []


@pytest.mark.parametrize(
    ("code", "says", "next_step"),
    [
        ("RequestExpired", "The session with AWS has expired", "aws sso login"),
        ("InvalidClientTokenId", "AWS does not accept the credentials", "aws configure"),
        ("AuthFailure", "does not accept the credentials in us-east-1", "aws account enable-region"),
        ("OptInRequired", "does not accept the credentials in us-east-1", "--region-name us-east-1"),
        ("RequestTimeTooSkewed", "its clock is off", "timedatectl set-ntp true"),
    ],
)
def test_credentials_that_are_refused_say_what_to_do(aws: FakeAws, code: str, says: str, next_step: str) -> None:
    aws.fail("DescribeInstanceTypeOfferings", code, status=401, times=9)
    with pytest.raises(CredentialProblem, match=says) as refused:
        cloud().quote(OFFER)
    assert next_step in refused.value.next_step
    assert refused.value.exit_code == 4


def test_a_signature_from_a_wrong_clock_is_no_wrong_key(aws: FakeAws) -> None:
    aws.fail("DescribeInstanceTypeOfferings", "SignatureDoesNotMatch", status=403, times=9,
             message="Signature expired: 20261126T0900Z is now earlier than 20261126T1000Z")  # fmt: skip
    with pytest.raises(CredentialProblem, match="its clock is off"):
        cloud().quote(OFFER)


def test_without_credentials_nobody_is_asked(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialProblem, match="There are no credentials of AWS here"):
        cloud()
    assert aws.asked == []


def test_a_profile_that_is_not_there_is_named(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(CredentialProblem) as refused:
        cloud()
    assert "AWS_PROFILE names a profile" in refused.value.why


@pytest.mark.parametrize("config", [None, "[default]\nregion = us-east-1\n", "[profile work]\nregion = us-east-1\n"])
def test_what_a_machine_was_rented_with_ends_it(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str | None
) -> None:
    made = cloud().create(ORDER)
    if config:  # a sign of credentials, and none
        (tmp_path / ".aws").mkdir(exist_ok=True)
        (tmp_path / ".aws/config").write_text(config)
    kept = Keys("AKIAKEPT000000000000", "kept")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    AwsCloud(Account(os.environ, kept), REGION, gpu="L40S").terminate([made])
    assert aws.instances() == []


def test_who_signs_in_again_is_heard(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".aws/credentials"
    file.parent.mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
    file.write_text(text.format("AKIAOLD0000000000000"))
    provider = cloud()
    aws.fail("DescribeInstances", "RequestExpired")
    with pytest.raises(CredentialProblem, match="expired"):
        provider.named(NAME)
    file.write_text(text.format("AKIANEW0000000000000"))
    provider.named(NAME)
    assert provider.account.keys().access == "AKIANEW0000000000000"


def test_a_rehearsal_makes_nothing_and_finds_what_is_not_allowed(aws: FakeAws) -> None:
    cloud().rehearse(OFFER)
    assert aws.instances() == []
    (asked,) = aws.operations("RunInstances")
    assert asked.body["DryRun"] == "true"
    aws.fail("RunInstances", "UnauthorizedOperation", status=403)
    with pytest.raises(NotAllowed, match="ec2:RunInstances"):
        cloud().rehearse(OFFER)


# ---- the firewall ----


def ranges() -> list[str]:
    (group,) = client().describe_security_groups(Filters=[{"Name": "group-name", "Values": ["launch-abc123-*"]}])[
        "SecurityGroups"
    ]
    return sorted(each["CidrIp"] for rule in group["IpPermissions"] for each in rule["IpRanges"])


def test_a_computer_that_has_moved_is_let_in_from_there_alone(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud().create(ORDER)
    monkeypatch.setenv("LAUNCH_PUBLIC_ADDRESS", "198.51.100.9")
    cloud().named(NAME)
    assert ranges() == ["198.51.100.9/32"]


def test_a_rule_that_is_right_is_left_and_a_wider_one_is_taken_away(aws: FakeAws) -> None:
    cloud().create(ORDER)
    (group,) = client().describe_security_groups(Filters=[{"Name": "group-name", "Values": ["launch-abc123-*"]}])[
        "SecurityGroups"
    ]
    for port in (22, 8888):
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        client().authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])
    cloud().named(NAME)
    assert ranges() == ["203.0.113.7/32"]


def test_an_address_that_nobody_knows_is_said(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAUNCH_PUBLIC_ADDRESS", "")
    cloud().create(ORDER)
    assert "open to every address" in capsys.readouterr().err
    assert ranges() == ["0.0.0.0/0"]


def test_a_region_without_a_default_network_says_how_to_make_one(aws: FakeAws) -> None:
    from moto.ec2.models import ec2_backends

    backend = ec2_backends[ACCOUNT][REGION]
    backend.vpcs.clear()
    with pytest.raises(OfferFailed, match="no default network") as refused:
        cloud().create(ORDER)
    assert "aws ec2 create-default-vpc --region us-east-1" in refused.value.why
