"""What Lambda's API sends, as far as it is read here. Keys that are not known are left out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

ENDED = frozenset({"terminated", "preempted"})
"""Of a machine that costs nothing any more, should it still be listed. `terminating` is not among them."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Specs(_Model):
    vcpus: int | None = None
    memory_gib: FiniteFloat | None = None
    storage_gib: FiniteFloat | None = None
    gpus: int = 0


class MachineType(_Model):
    price_cents_per_hour: FiniteFloat = Field(gt=0)
    gpu_description: str = ""
    specs: Specs = Specs()
    architecture: str = ""


class Named(_Model):
    name: str


class TypeOnSale(_Model):
    """A type, its price of now, and where one could be had."""

    instance_type: MachineType
    regions_with_capacity_available: tuple[Named, ...] = ()


class RunningType(Named):
    price_cents_per_hour: FiniteFloat | None = None


class Instance(_Model):
    """A machine of the account. `status` is `booting`, `active`, `unhealthy`, `terminating`, `terminated`, ..."""

    id: str = Field(min_length=1)
    name: str | None = None
    status: str
    ip: str | None = None
    region: Named
    instance_type: RunningType
    ssh_key_names: tuple[str, ...] = ()

    @property
    def costs(self) -> bool:
        """Whether it is still there, and so may be billed."""
        return self.status not in ENDED


class SshKey(_Model):
    id: str = ""
    name: str
    public_key: str


class Types(BaseModel):
    data: dict[str, object]


class Instances(BaseModel):
    data: list[Instance]


class SshKeys(BaseModel):
    data: list[SshKey]


class AddedSshKey(BaseModel):
    data: SshKey


class Ids(BaseModel):
    instance_ids: list[str] = Field(min_length=1)


class Launched(BaseModel):
    data: Ids
