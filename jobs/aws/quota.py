"""How many vCPUs of a family of instance types an account may run on demand: zero, in a new account.

AWS counts on-demand instances by vCPUs, a quota a family and region (docs.aws.amazon.com/AWSEC2/latest/UserGuide/
ec2-on-demand-instances.html); what runs already is not asked for, and the create call says so where it is too much.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jobs.aws.account import Account
from jobs.aws.problems import asking


@dataclass(frozen=True)
class Quota:
    """`vcpus` is what the account may run of it at once."""

    code: str
    name: str
    region: str
    vcpus: float

    @property
    def page(self) -> str:
        """Where it is raised."""
        console = f"https://{self.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas"
        return f"{console}/{self.code}"

    def too_small(self, instance_type: str, vcpus: int) -> str | None:
        """Why the type cannot be run, and where that is changed; None where it can."""
        if self.vcpus >= vcpus:
            return None
        return (
            f"the quota {self.name} ({self.code}) of {self.region} is {self.vcpus:g} vCPUs, and {instance_type} has "
            f"{vcpus}; ask for more at {self.page}"
        )


FAMILIES = {
    "p": ("L-417A185B", "Running On-Demand P instances"),
    "g": ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    "vt": ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    "standard": ("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
}
"""Quota code and name, as Service Quotas lists them."""


def family(instance_type: str) -> tuple[str, str]:
    letters = re.match(r"[a-z]*", instance_type)
    name = letters.group() if letters else ""
    return FAMILIES["p" if name == "p" else "vt" if name == "vt" else "g" if name.startswith("g") else "standard"]


def quota_of(account: Account, instance_type: str, region: str) -> Quota:
    """Raises CredentialProblem where `servicequotas:GetServiceQuota` is not allowed, AwsProblem for all else."""
    code, name = family(instance_type)
    client = account.client("service-quotas", region)
    with asking(region, "servicequotas"):
        said: Any = client.get_service_quota(ServiceCode="ec2", QuotaCode=code)
        return Quota(code, name, region, float(said["Quota"]["Value"]))


def vcpus_of(account: Account, instance_type: str, region: str) -> int:
    client = account.client("ec2", region)
    with asking(region):
        said: Any = client.describe_instance_types(InstanceTypes=[instance_type])
        return int(said["InstanceTypes"][0]["VCpuInfo"]["DefaultVCpus"])
