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

from jobs.aws.account import signs_of_credentials
from jobs.offer import Offer
from launcher.aws_answers import Answer, accepted, notes_on, raise_where_refused, some

LIMIT_S = 10.0
"""That a plan waits for AWS; what was not answered by then keeps the price of the catalogue."""


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
    good = accepted(answers)
    if not good:
        raise_where_refused(failures)
    wanted = [("on_demand", kind) for kind in kinds] + [("spot", region) for region in sorted(spot)]
    return _at_answers(listed, answered, now, said + notes_on(failures, wanted, answers, LIMIT_S, good=good))


def _ask(question: str, environ: Mapping[str, str]) -> tuple[list[Answer], list[str]]:
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


def _lines(output: bytes) -> list[Answer]:
    whole, _, _ = output.rpartition(b"\n")  # the last line of a process that was ended may be cut
    return [Answer.model_validate_json(line) for line in whole.splitlines()]


def _at_answers(
    listed: Sequence[Offer], answers: Iterable[Answer], now: datetime, said: list[str]
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
        said.append(f"AWS names no price of {some(missing)}: the catalogue's are used")
    return offers, said


def _usd(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < inf else None
