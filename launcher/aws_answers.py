"""What AWS answered to a question for its prices, and what a person is told where it gave none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from jobs.aws.codes import DENIED, EXPIRED, LIMITED, NO_NETWORK, REFUSED, SKEWED
from jobs.aws.problems import SIGN_IN, credential_problem

NAMED = 3


class Answer(BaseModel):
    """A line of `aws_ask`: prices of a type by region, or of a region by type, as AWS writes them; or what failed."""

    model_config = ConfigDict(frozen=True)

    asked: Literal["credentials", "on_demand", "spot"]
    what: str
    prices: tuple[tuple[str, str], ...] = ()
    failed: str = ""
    operation: str = ""


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def accepted(answers: Iterable[Answer]) -> bool:
    """Whether AWS has taken the credentials for something: it gave prices, or knew who may not have them."""
    return any(not answer.failed or (answer.failed in DENIED and answer.asked != "credentials") for answer in answers)


def raise_where_refused(failures: Iterable[Answer]) -> None:
    """CredentialProblem where a failure is one of credentials."""
    for failure in failures:
        problem = credential_problem(
            failure.failed,
            to="a question for its prices",
            operation=failure.operation,
            signing_in=failure.asked == "credentials",
        )
        if problem is not None:
            raise problem


ACTIONS = {
    "credentials": ("sign-in", "sts:AssumeRole"),
    "on_demand": ("on-demand prices", "pricing:GetProducts"),
    "spot": ("spot prices", "ec2:DescribeSpotPriceHistory"),
}


def notes_on(
    failures: Iterable[Answer],
    wanted: Sequence[tuple[str, str]],
    answers: Iterable[Answer],
    limit_s: float,
    *,
    good: bool,
) -> list[str]:
    """One sentence for each kind of failure. `good`: the credentials are, for something."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    local: set[str] = set()
    for failure in failures:
        groups[failure.asked, failure.failed].append(failure.what)
        local |= set() if failure.operation else {failure.failed}
    notes: list[str] = []
    for (asked, failed), names in groups.items():
        prices, action = ACTIONS[asked]
        of = f" of {some(sorted(names))}" if asked != "credentials" else ""
        why, step = _reason(failed, asked, action, good=good)
        if not why:
            here = f"boto3 could not ask, or could not read the answer ({failed})"
            why = here if failed in local else f"it answered {failed}"
        notes.append(
            f"AWS gave no {prices}{of}. Why: {why}. Prices are the catalogue's" + (f". Next: {step}" if step else "")
        )
    # Without credentials nothing more was asked, and of on-demand prices nothing after a refusal.
    stopped = {asked for asked, failed in groups if asked == "credentials" or failed in DENIED | EXPIRED | REFUSED}
    stopped -= {"spot"}
    known = {(answer.asked, answer.what) for answer in answers}
    for asked in ("on_demand", "spot"):
        late = [what for kind, what in wanted if kind == asked and (kind, what) not in known]
        if late and not ({asked, "credentials"} & stopped):
            notes.append(
                f"AWS gave no {ACTIONS[asked][0]} of {some(late)} within {limit_s:g} s: the catalogue's are used"
            )
    return notes


def _reason(failed: str, asked: str, action: str, *, good: bool) -> tuple[str, str]:
    """Why, and what to type next; nothing of what is not known."""
    if failed == "NotInstalled":
        return "boto3 is not installed", "pip install 'dpo-launch[aws]'"
    if failed in DENIED:
        return f"this user may not call {action}", f"ask for a policy that allows {action} on all resources"
    if failed in SKEWED:
        return f"this machine's clock is off ({failed})", "timedatectl set-ntp true"
    if failed in REFUSED and asked == "spot" and good:
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
    return "", ""
