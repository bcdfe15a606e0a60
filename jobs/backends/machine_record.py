"""What is on disk of a rented machine, from before it is asked for until it is gone: `jobs/JOB/machine-N/record.json`.

A driver that was killed leaves it; the next one reads from it what to look for at the provider.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from jobs.work import write_document

CLUSTER_LIMIT = 48
"""Letters of a cluster name that SkyPilot puts into an instance's name unchanged."""


class MachineRecord(BaseModel):
    """`machine/1`. Moments are this computer's clock, in UTC."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: str = Field(default="machine/1", alias="schema")
    cluster: str
    instance_name: str
    """The whole name at the provider; whatever has it is this attempt's machine."""
    owner: str | None = None
    """Whose list it stands in, as `Provider.owner` says it: another's proves nothing of it."""
    host_key: str
    """Public, as OpenSSH writes it; the only one that is accepted."""
    price_per_hour: float
    charged_s: float
    on_host_s: float
    reserve_s: float
    evaluation_s: float = 0.0
    """Of the reserve."""
    create_called_at: AwareDatetime | None = None
    create_refused: str | None = None
    instance_id: str | None = None
    address: str | None = None
    active_at: AwareDatetime | None = None
    """When the provider first showed it as active, or, where nobody looked then, the last moment before."""
    looked_at: AwareDatetime | None = None
    """When somebody last looked for it before it was seen active."""
    ends_at: AwareDatetime | None = None
    """Its own deadline as this computer's clock has it; None before the first login."""
    launch_request: str | None = None
    """SkyPilot's."""
    gone_at: AwareDatetime | None = None

    @property
    def may_be_there(self) -> bool:
        """And cost money, until its own deadline at the latest."""
        return bool(self.create_called_at and not self.create_refused and not self.gone_at)

    def at(self, after_s: float) -> datetime:
        """That many seconds after its first boot; where nobody has logged in yet, after the create call."""
        if self.ends_at is not None:
            return self.ends_at + timedelta(seconds=after_s - self.on_host_s)
        assert self.create_called_at is not None
        return self.create_called_at + timedelta(seconds=after_s)


def cluster_name(store_id: str, job_id: str, attempt: int) -> str:
    """`launch-STORE-JOB-ATTEMPT`, of [a-z0-9-]."""
    name = f"launch-{store_id}-{job_id}-{attempt}"
    assert len(name) <= CLUSTER_LIMIT, name
    return name


class RecordFile:
    """The record of one attempt's machine; each change is on disk before anything follows from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "record.json"

    def read(self) -> MachineRecord | None:
        try:
            return MachineRecord.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, record: MachineRecord) -> MachineRecord:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_document(self._file, record.model_dump_json(by_alias=True, indent=1))
        return record

    def current(self) -> MachineRecord:
        record = self.read()
        assert record is not None, "the intent is on disk before anything else"
        return record

    def change(self, **values: Any) -> MachineRecord:
        return self.write(self.current().model_copy(update=values))
