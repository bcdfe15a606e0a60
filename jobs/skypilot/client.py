"""`SkyPilot`: what a driver does with SkyPilot, from the key pair before the create to forgetting the machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import yaml

from jobs.aws.account import Account
from jobs.home import Home
from jobs.offer import Offer
from jobs.skypilot.aws_folder import HOME_FOLDER, AwsFolder
from jobs.skypilot.folder import Folder
from jobs.skypilot.problems import RequestLost, SkyPilotFailed
from jobs.skypilot.rest import VERSION, Rest, Unanswered
from jobs.skypilot.server import Server

CLUSTER_NAME = r"[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?"
"""At most 48 signs: with `-` and the user hash 57, up to which SkyPilot takes a name of Lambda as it is."""
LOG_LINES_SHOWN = 20
JOB_STATE_LIMIT_S = 60.0
FORGET_LIMIT_S = 180.0


def _first_and_last(said: str, last: int = 6) -> str:
    """Of the pages that SkyPilot says, the line that names what failed, and the end."""
    lines = [line for line in said.splitlines() if line.strip()]
    return "\n".join(lines if len(lines) <= last + 1 else [lines[0], "...", *lines[-last:]])


class SkyPilot:
    """One store's SkyPilot: a HOME, a user hash and a server of its own, shared by the drivers of one `$LAUNCH_HOME`.

    It never creates and never ends a machine (`plugin.py`): the driver makes one under `instance_name(cluster)` with
    the key of `key_pair()`, and `launch` adopts it. What it reports of machines and jobs is not proof of anything.
    """

    def __init__(
        self,
        home: Home,
        store_id: str,
        *,
        lambda_key: str | None = None,
        aws: Account | None = None,
        catalogues: Path | None = None,
    ) -> None:
        """`catalogues`: a folder with `lambda/vms.csv` of SkyPilot's form; read, never written. With `aws` it serves
        machines on AWS, and has a HOME and a server of its own for that."""
        self.user_hash = hashlib.sha256(f"launch {store_id}".encode()).hexdigest()[:8]
        self._lambda_key, self._sources = lambda_key, catalogues
        if aws is None:
            self._folder = Folder(home.root / "skypilot", self.user_hash)
        else:
            self._folder = AwsFolder(home.root / HOME_FOLDER, self.user_hash, aws)
        self._server = Server(self._folder)

    @staticmethod
    def installed() -> bool:
        """Whether SkyPilot is there in the version that this is written for; it is not imported."""
        try:
            return metadata.version("skypilot") == VERSION
        except metadata.PackageNotFoundError:
            return False

    @property
    def ssh_key_name(self) -> str:
        """Under which SkyPilot registers its public key at Lambda; it takes one that is there with the same content."""
        return f"sky-key-{self.user_hash}"

    def instance_name(self, cluster: str) -> str:
        """The machine's name at the provider, as SkyPilot makes it.

        Raises:
            ValueError: SkyPilot would change such a name.
        """
        if not re.fullmatch(CLUSTER_NAME, cluster):
            raise ValueError(f"{cluster!r} is no cluster name of at most 48 signs a-z, 0-9 and -")
        return f"{cluster}-{self.user_hash}-head"

    def prepare(self, offers: Iterable[Offer] = ()) -> None:
        """Writes the HOME of the server: the credentials, a configuration, the catalogue with these offers in it."""
        self._folder.prepare(self._lambda_key, self._sources, offers)

    def key_pair(self) -> tuple[Path, str]:
        """The private key's file and the public key's line, made before there is a server or a machine.

        Raises:
            SkyPilotFailed: there is no ssh-keygen.
        """
        return self._folder.key_pair()

    def start(self) -> None:
        """Returns once the server answers, and counts this process among its users until `close`. Repeatable.

        Raises:
            SkyPilotFailed: SkyPilot is not installed, or its server does not start.
        """
        if not self.installed():
            raise SkyPilotFailed(
                f"SkyPilot {VERSION} is not installed beside this program",
                next_step=f"pip install 'skypilot[lambda]=={VERSION}' (or the extra: 'dpo-launch[cloud]')",
            )
        self._server.start()

    def launch(self, task: dict[str, Any], cluster: str) -> str:
        """Files `sky launch` of `task` (SkyPilot's YAML, as data) on the machine of that name; its request id, at once.

        The task says exact type and region, and autostop with `wait_for: none`: SkyPilot arms it only when the task
        is about to run. SkyPilot looks at the name alone and believes the task about the rest.

        Raises:
            ValueError: the task names files of this computer; the server would look for them in its own HOME.
            RequestLost: there is no server; `start()` again.
            SkyPilotFailed: the server refused the request.
        """
        self.instance_name(cluster)
        if named := {"workdir", "file_mounts", "storage_mounts"} & {key for key, value in task.items() if value}:
            raise ValueError(f"the task has {', '.join(sorted(named))}: files go over by our own transfer")
        document = yaml.safe_dump_all([{"name": cluster}, task], sort_keys=False)
        return self._post("/launch", {"task": document, "cluster_name": cluster, "quiet_optimizer": True})

    def finished(self, request_id: str) -> bool:
        """Whether a request of `launch` has submitted its job. A server that is slow to answer counts as not yet.

        Raises:
            RequestLost: the server was started anew since, or is gone. `start()` and `launch()` again.
            SkyPilotFailed: SkyPilot gave up; its reason, and the end of what it printed.
        """
        rest = self._rest()
        try:
            if rest.status(request_id) in ("PENDING", "WAITING", "RUNNING"):
                return False
            rest.result(request_id, wait_s=30.0)
        except Unanswered as error:
            raise RequestLost("SkyPilot's server is gone", why=error.why) from error
        except TimeoutError:
            return False
        except RequestLost:
            raise
        except SkyPilotFailed as error:
            said = click.unstyle(f"{error.why}\n{self.request_log(request_id)}").strip()
            print(said, flush=True)  # the driver's log has all of it
            raise SkyPilotFailed(
                f"SkyPilot could not start the job: {error.what}", why=_first_and_last(said)
            ) from error
        return True

    def request_log(self, request_id: str, lines: int = LOG_LINES_SHOWN) -> str:
        """The last lines of what SkyPilot has printed about a request; empty where it cannot be asked."""
        try:
            return self._rest().log(request_id, lines)
        except (SkyPilotFailed, TimeoutError):
            return ""

    def job_state(self, cluster: str) -> str | None:
        """Of the last job on the machine: INIT, PENDING, SETTING_UP, RUNNING, SUCCEEDED, FAILED, FAILED_SETUP, ...

        None where SkyPilot does not know: no such machine, no job, no server, no answer in a minute. It asks the
        machine by SSH, some seconds each time.
        """
        try:
            rest = self._rest()
            asked = rest.post("/job_status", {"cluster_name": cluster, "job_ids": None})
            states: dict[str, str | None] | None = rest.result(asked, wait_s=JOB_STATE_LIMIT_S)
        except (SkyPilotFailed, TimeoutError):
            return None
        return next(iter(states.values()), None) if states else None

    def forget(self, cluster: str) -> None:
        """Drops SkyPilot's record of a machine that was ended. The machine itself is not touched.

        Raises:
            SkyPilotFailed: the record may still be there. It ends nothing and costs nothing.
        """
        try:
            rest = self._rest()
            rest.result(rest.post("/down", {"cluster_name": cluster, "purge": True}), wait_s=FORGET_LIMIT_S)
        except TimeoutError as error:
            raise SkyPilotFailed(f"SkyPilot has not forgotten {cluster} within {FORGET_LIMIT_S:.0f} s") from error
        except SkyPilotFailed as error:
            if error.what != "ClusterDoesNotExist":
                raise

    def knows(self, cluster: str) -> bool:
        """Whether SkyPilot has a record of that name.

        Raises:
            SkyPilotFailed: it cannot be asked.
        """
        try:
            rest = self._rest()
            body = {"cluster_names": [cluster], "include_credentials": False, "summary_response": True}
            return bool(rest.result(rest.post("/status", body), wait_s=JOB_STATE_LIMIT_S))
        except TimeoutError as error:
            raise SkyPilotFailed("SkyPilot's server does not answer") from error

    def close(self) -> None:
        """This process needs the server no more; the last one to say so ends it. So does the end of the last process,
        for the next `start()`."""
        self._server.close()

    def stop(self) -> None:
        """Ends our server with all its processes, whoever uses it. Machines and jobs on them go on."""
        self._server.stop()

    def _rest(self) -> Rest:
        rest = self._server.rest()
        if rest is None:
            raise RequestLost("SkyPilot's server was never started")
        return rest

    def _post(self, path: str, body: dict[str, Any]) -> str:
        try:
            return self._rest().post(path, body)
        except Unanswered as error:
            raise RequestLost("SkyPilot's server is gone", why=error.why) from error
        except TimeoutError as error:
            raise RequestLost("SkyPilot's server does not answer") from error
