# pyright: basic
"""Asks AWS for prices: run as a process of its own by `launcher.aws_prices`, one JSON line for each answer.

A process of its own, since boto3 may wait for a password, a browser or a program of the user's, and nothing but the end
of its process stops it. It reads `{"on_demand": [TYPE], "spot": {REGION: [TYPE]}}` from standard input. botocore is the
part of boto3 that asks; boto3's other half is a fifth of a second of imports for nothing. No line holds a message of
AWS's: some repeat the signature.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

AT_ONCE = 8
CONNECT_S = 3
READ_S = 6
ATTEMPTS = 2
HOME_OF_PRICES = "us-east-1"
"""Where the Price List API answers, for all regions."""
LINUX = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
SAME_FOR_ALL = frozenset(
    {"AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException"}
)
"""Errors of the Price List API after which another question gets the same one."""

_printing = threading.Lock()


def _say(asked: str, what: str, **more: object) -> None:
    with _printing:
        print(json.dumps({"asked": asked, "what": what, **more}), flush=True)


def _hourly(product: object) -> list[tuple[str, str]]:
    """(region, USD) of one entry of a `PriceList`, which is JSON in a string. KeyError, TypeError where it is not."""
    found = json.loads(product)  # pyright: ignore[reportArgumentType]
    terms = found["terms"].get("OnDemand", {}).values()
    prices = [
        str(dimension["pricePerUnit"].get("USD", "missing"))
        for term in terms
        for dimension in term["priceDimensions"].values()
        if dimension.get("unit") == "Hrs"
    ]
    return [(found["product"]["attributes"]["regionCode"], usd) for usd in prices or ["missing"]]


def _on_demand(client, kind: str) -> list[tuple[str, str]]:
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in LINUX.items()]
    filters.append({"Type": "TERM_MATCH", "Field": "instanceType", "Value": kind})
    pages = client.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
    return [pair for page in pages for product in page["PriceList"] for pair in _hourly(product)]


def _spot(client, kinds: list[str]) -> list[tuple[str, str]]:
    """(type, USD) for each zone: with no past asked for, AWS gives what is in effect, the last change of each."""
    now = datetime.now(UTC)
    pages = client.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=kinds, ProductDescriptions=["Linux/UNIX"], StartTime=now, EndTime=now
    )
    latest: dict[tuple[str, str], dict] = {}
    for page in pages:
        for row in page["SpotPriceHistory"]:
            zone = (row["InstanceType"], row["AvailabilityZone"])
            if zone not in latest or latest[zone]["Timestamp"] < row["Timestamp"]:
                latest[zone] = row
    return [(kind, row["SpotPrice"]) for (kind, _), row in latest.items()]


def _failure(error: Exception) -> dict[str, str]:
    """The code of an answer, or the name of what happened on the way to it; and what was asked of whom."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return {"failed": type(error).__name__}
    said: dict = error.response.get("Error", {})
    code = str(said.get("Code", "Unknown"))
    message = str(said.get("Message", ""))
    if "Signature expired" in message or "Signature not yet current" in message:
        code = "RequestTimeTooSkewed"
    return {"failed": code, "operation": error.operation_name}


class _Questions:
    """Asks with one session of boto3's, from any thread. A client is made when it is first needed."""

    def __init__(self, session: Any, problems: tuple[type[Exception], ...]) -> None:
        from botocore.config import Config

        self._session, self._problems = session, problems
        self._config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=AT_ONCE,
        )
        self._creating = threading.Lock()  # a session makes one client at a time
        self._clients: dict[tuple[str, str], Any] = {}
        self._hopeless = threading.Event()

    def on_demand(self, kind: str) -> None:
        if self._hopeless.is_set():
            return
        failed = self._ask("on_demand", kind, lambda: _on_demand(self._client("pricing", HOME_OF_PRICES), kind))
        if failed in SAME_FOR_ALL:
            self._hopeless.set()

    def spot(self, region: str, kinds: list[str]) -> None:
        self._ask("spot", region, lambda: _spot(self._client("ec2", region), kinds))

    def _client(self, service: str, region: str) -> Any:
        with self._creating:
            if (service, region) not in self._clients:
                made = self._session.create_client(service, region_name=region, config=self._config)
                self._clients[service, region] = made
            return self._clients[service, region]

    def _ask(self, asked: str, what: str, prices: Callable[[], list[tuple[str, str]]]) -> str:
        try:
            _say(asked, what, prices=prices())
        except self._problems as error:
            failure = _failure(error)
            _say(asked, what, **failure)
            return failure["failed"]
        return ""


def _questions() -> _Questions | None:
    """None where nothing can be asked, after saying why. Credentials are fetched here, before any thread needs them."""
    try:
        import botocore.session
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        _say("credentials", "", failed="NotInstalled")
        return None
    # KeyError and the like: an answer, a file or a variable that is not what it should be
    problems = (BotoCoreError, ClientError, KeyError, TypeError, ValueError, AttributeError, OSError, EOFError)
    try:
        session = botocore.session.Session()
        credentials = session.get_credentials()
        keys = credentials.get_frozen_credentials() if credentials else None
    except problems as error:
        _say("credentials", "", **_failure(error))
        return None
    if keys is None:
        _say("credentials", "", failed="None")
        return None
    if not all(re.fullmatch(r"[!-~]+", key) for key in keys[:3] if key is not None):
        _say("credentials", "", failed="Unprintable")  # a header takes nothing else, and its error would print them
        return None
    return _Questions(session, problems)


def main() -> None:
    question = json.load(sys.stdin)
    questions = _questions()
    if questions is None:
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asking = [pool.submit(questions.on_demand, kind) for kind in question["on_demand"]]
        asking += [pool.submit(questions.spot, region, kinds) for region, kinds in question["spot"].items()]
    for one in asking:
        one.result()  # an error of another kind ends this process as one


if __name__ == "__main__":
    main()
