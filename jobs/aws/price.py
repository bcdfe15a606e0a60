"""What an hour of a machine on AWS costs on demand: the instance, and what AWS charges beside it."""

from __future__ import annotations

import json
from typing import Any

from jobs.aws.account import Account
from jobs.aws.problems import asking

HOME_OF_PRICES = "us-east-1"
"""Where the Price List API answers, for all regions."""
LINUX = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
DISK_USD_PER_GIB_MONTH = 0.16
"""Of a gp3 volume: an assumption above the list price of the dearest region, so that a budget holds in all of them."""
HOURS_A_MONTH = 730
ADDRESS_USD_PER_HOUR = 0.005
"""Of a public IPv4 address in use (aws.amazon.com/vpc/pricing)."""


def beside_the_instance(disk_gib: int) -> float:
    """USD an hour for the root volume and the address."""
    return disk_gib * DISK_USD_PER_GIB_MONTH / HOURS_A_MONTH + ADDRESS_USD_PER_HOUR


def on_demand(account: Account, instance_type: str, region: str) -> float | None:
    """USD an hour of the instance alone, from the Price List API; of several products the dearest, None without one.

    Raises:
        CredentialProblem: `pricing:GetProducts` is not allowed, or the credentials are not accepted.
        AwsProblem: it does not answer.
    """
    client = account.client("pricing", HOME_OF_PRICES)
    wanted = LINUX | {"instanceType": instance_type, "regionCode": region}
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    with asking(HOME_OF_PRICES, "pricing"):
        said: Any = client.get_products(ServiceCode="AmazonEC2", Filters=filters)
        products = [json.loads(each) for each in said["PriceList"]]
        here = [each for each in products if each["product"]["attributes"]["regionCode"] == region]
        prices = [usd for each in here for usd in _hourly(each) if usd > 0]
    return max(prices, default=None)


def _hourly(product: Any) -> list[float]:
    return [
        float(dimension["pricePerUnit"].get("USD", 0))
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension.get("unit") == "Hrs"
    ]
