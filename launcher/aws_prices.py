"""What AWS charges now, on demand and spot: asked through boto3, where there are credentials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from artifacts.errors import CredentialProblem
from jobs.offer import Offer

LIMIT_S = 10.0
"""That a plan waits for AWS; what was not answered by then keeps the price of the catalogue."""
NAMED = 3
SIGNS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
SIGN_IN = "aws sso login or aws configure, then aws sts get-caller-identity to see that it works"

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
SKEWED = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
REFUSED = frozenset(
    {"AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
     "MissingAuthenticationToken", "OptInRequired", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)  # fmt: skip
LIMITED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"})
NO_NETWORK = frozenset(
    {"ConnectTimeoutError", "ConnectionClosedError", "ConnectionError", "EndpointConnectionError", "HTTPClientError",
     "ProxyConnectionError", "ReadTimeoutError", "SSLError"}
)  # fmt: skip


class _Answer(BaseModel):
    """A line of `aws_ask`: prices of a type by region, or of a region by type, as AWS writes them; or what failed."""

    model_config = ConfigDict(frozen=True)

    asked: Literal["credentials", "on_demand", "spot"]
    what: str
    prices: tuple[tuple[str, str], ...] = ()
    failed: str = ""
    operation: str = ""


def signs_of_credentials(environ: Mapping[str, str]) -> bool:
    """Whether it is worth starting boto3: a variable that it reads, or a file. A machine's own role is not one.

    The service at 169.254.169.254 that gives a role is not asked: nothing answers there on a laptop, and it is slow.
    """
    if any(environ.get(name) for name in SIGNS):
        return True
    return any(Path(environ.get(name) or file).expanduser().is_file() for name, file in FILES.items())


def live_offers(listed: Sequence[Offer], environ: Mapping[str, str], now: datetime) -> tuple[list[Offer], list[str]]:
    """`listed` (the catalogue's offers of AWS) at AWS's prices of `now`, and what a person must be told.

    A type is asked for once on demand, for all regions (`pricing:GetProducts`), and a region once for spot
    (`ec2:DescribeSpotPriceHistory`), where a region's price is that of its cheapest zone. boto3 finds credentials as it
    always does, in `environ` and the files that it names; without any, the catalogue's prices are given and nothing is
    asked. So are they for each row that AWS gives no price for within `LIMIT_S`, or none that can be.

    Raises:
        CredentialProblem: there are credentials, and AWS accepts them for nothing.
    """
    on_demand: dict[str, float] = {}
    spot: dict[str, set[str]] = defaultdict(set)
    for offer in listed:
        if offer.spot and offer.region:
            spot[offer.region].add(offer.instance_type)
        elif not offer.spot:
            on_demand[offer.instance_type] = min(offer.price_per_hour, on_demand.get(offer.instance_type, inf))
    if not (on_demand or spot) or not signs_of_credentials(environ):
        return list(listed), []
    kinds = sorted(on_demand, key=lambda kind: (on_demand[kind], kind))  # a short time is for what most people rent
    question = {"on_demand": kinds, "spot": {region: sorted(each) for region, each in sorted(spot.items())}}
    answers, said = _ask(json.dumps(question), environ)
    failures = [answer for answer in answers if answer.failed]
    if any(failure.failed == "None" for failure in failures):
        return list(listed), []
    answered = [answer for answer in answers if not answer.failed]
    if not answered:
        _raise_where_refused(failures)
    wanted = [("on_demand", kind) for kind in kinds] + [("spot", region) for region in sorted(spot)]
    return _at_answers(listed, answered, now, said + _why_not(failures, wanted, answers, bool(answered)))


def _ask(question: str, environ: Mapping[str, str]) -> tuple[list[_Answer], list[str]]:
    """What was answered within `LIMIT_S`. The process is in a session of its own: it has no terminal to ask on."""
    with subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("aws_ask.py"))],
        env={**environ, "AWS_EC2_METADATA_DISABLED": "true"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # boto3's warnings, and errors that may repeat a header
        start_new_session=True,
    ) as child:
        try:
            output, _ = child.communicate(question.encode(), timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # with the program that the user's profile may have started
            output, _ = child.communicate()
            return _lines(output), []
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    broke = f"AWS's prices were not read to the end: boto3's process ended with {child.returncode}"
    return _lines(output), [broke] if child.returncode else []


def _lines(output: bytes) -> list[_Answer]:
    whole, _, _ = output.rpartition(b"\n")  # the last line of a process that was ended may be cut
    return [_Answer.model_validate_json(line) for line in whole.splitlines()]


def _at_answers(
    listed: Sequence[Offer], answers: Iterable[_Answer], now: datetime, said: list[str]
) -> tuple[list[Offer], list[str]]:
    prices: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    asked: set[tuple[str, str]] = set()
    for answer in answers:
        asked.add((answer.asked, answer.what))
        for other, usd in answer.prices:
            is_spot = answer.asked == "spot"
            prices[(other, answer.what, True) if is_spot else (answer.what, other, False)].append(usd)
    offers: list[Offer] = []
    missing: list[str] = []
    for offer in listed:
        given = prices.get((offer.instance_type, offer.region or "", offer.spot))
        name = f"{offer.instance_type}{' spot' if offer.spot else ''} in {offer.region}"
        question = ("spot", offer.region or "") if offer.spot else ("on_demand", offer.instance_type)
        if given is None:
            offers.append(offer)
            missing += [name] if question in asked else []
            continue
        usable = [usd for text in given if (usd := _usd(text)) is not None]
        odd = [text for text in given if _usd(text) is None]
        if odd:
            said.append(f"AWS's live price of {name} is not used: it is {odd[0][:40]}")
        if not usable:
            offers.append(offer)
            continue
        # Zones differ, and a machine is put into the cheapest; two products of one name do not, and the dearer is paid.
        usd = min(usable) if offer.spot else max(usable)
        offers.append(offer.model_copy(update={"price_per_hour": usd, "price_as_of": now, "price_source": "AWS's API"}))
    if missing:
        said.append(f"AWS names no price of {_some(missing)}: the catalogue's are used")
    return offers, said


def _usd(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < inf else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _raise_where_refused(failures: Iterable[_Answer]) -> None:
    """CredentialProblem where a failure is one of credentials."""
    for failure in failures:
        problem = _credential_problem(failure)
        if problem is not None:
            raise problem


def _credential_problem(failure: _Answer) -> CredentialProblem | None:
    if failure.failed in EXPIRED:
        return CredentialProblem(
            "The session with AWS has expired.",
            why=f"It answered {failure.failed} to a question for its prices.",
            next_step=f"{SIGN_IN}; if it goes on, set this machine's clock",
        )
    if failure.failed in REFUSED:
        return CredentialProblem(
            "AWS does not accept the credentials.",
            why=f"It answered {failure.failed} to a question for its prices.",
            next_step=SIGN_IN,
        )
    if failure.asked != "credentials" or failure.failed in NO_NETWORK | SKEWED | {"NotInstalled"}:
        return None
    why, step = {
        "ProfileNotFound": ("AWS_PROFILE names a profile that is not in ~/.aws/config.", "aws configure list-profiles"),
        "PartialCredentialsError": ("There is an access key without its secret, or the other way.", "aws configure"),
        "EOFError": (
            "The profile wants an MFA code, and nobody can be asked for one here.",
            "aws sts get-session-token --serial-number ARN --token-code CODE, and set what it prints",
        ),
    }.get(failure.failed, (f"boto3 ended with {failure.failed}{_of(failure)}.", SIGN_IN))
    return CredentialProblem("AWS's credentials cannot be used.", why=why, next_step=step)


def _of(failure: _Answer) -> str:
    return f" at {failure.operation}" if failure.operation else ""


ACTIONS = {
    "credentials": ("sign-in", "sts:AssumeRole"),
    "on_demand": ("on-demand prices", "pricing:GetProducts"),
    "spot": ("spot prices", "ec2:DescribeSpotPriceHistory"),
}


def _why_not(
    failures: Iterable[_Answer], wanted: Sequence[tuple[str, str]], answers: Iterable[_Answer], some: bool
) -> list[str]:
    """One sentence for each kind of failure. `some`: AWS has answered something, so that its credentials are good."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for failure in failures:
        groups[failure.asked, failure.failed].append(failure.what)
    notes: list[str] = []
    for (asked, failed), names in groups.items():
        prices, action = ACTIONS[asked]
        of = f" of {_some(sorted(names))}" if asked != "credentials" else ""
        why, step = _reason(failed, asked, action, some)
        notes.append(
            f"AWS gave no {prices}{of}. Why: {why}. Prices are the catalogue's" + (f". Next: {step}" if step else "")
        )
    stopped = {asked for asked, failed in groups if asked == "credentials" or failed in DENIED | EXPIRED | REFUSED}
    known = {(answer.asked, answer.what) for answer in answers}
    for asked in ("on_demand", "spot"):
        late = [what for kind, what in wanted if kind == asked and (kind, what) not in known]
        if late and not ({asked, "credentials"} & stopped):
            notes.append(
                f"AWS gave no {ACTIONS[asked][0]} of {_some(late)} within {LIMIT_S:g} s: the catalogue's are used"
            )
    return notes


def _reason(failed: str, asked: str, action: str, some: bool) -> tuple[str, str]:
    """Why, and what to type next."""
    if failed == "NotInstalled":
        return "boto3 is not installed", "pip install 'dpo-launch[aws]'"
    if failed in DENIED:
        return f"this user may not {action}", f"ask for a policy that allows {action} on all resources"
    if failed in SKEWED:
        return f"this machine's clock is off ({failed})", "timedatectl set-ntp true"
    if failed in REFUSED and asked == "spot" and some:
        return (
            f"the region is not enabled for this account ({failed})",
            "aws account enable-region --region-name REGION",
        )
    if failed in REFUSED | EXPIRED:
        return f"it answered {failed}", SIGN_IN
    if failed in LIMITED:
        return f"it was asked too often ({failed})", "wait a minute and plan again"
    if failed in NO_NETWORK:
        return f"it cannot be reached ({failed})", "check the network, and AWS_ENDPOINT_URL if it is set"
    return f"its answer was {failed}", ""
