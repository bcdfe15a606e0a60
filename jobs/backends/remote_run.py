"""The run on a rented machine: sent there, started through SkyPilot, watched over SSH, brought home."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property

from artifacts import download, upload
from artifacts.errors import LaunchError, NotWhole, Unreachable
from artifacts.shell import Shell
from jobs.backends import Command, Say
from jobs.backends.machine_record import RecordFile
from jobs.backends.provider import Provider, raise_if_gone
from jobs.clock import Clock
from jobs.cloud_task import early_pull, submitted, task_document, task_text
from jobs.home import Home
from jobs.inputs import check_inputs
from jobs.job import Attention, Job, PhaseProgress
from jobs.lease import DriverWrites
from jobs.meter import Meter
from jobs.offer import PricedOffer
from jobs.parcel import ON_HOST, folder_on_host, mounts_of, parcel_of, run_on_host
from jobs.pins import PLATFORMS, pins_for
from jobs.skypilot import RequestLost, SkyPilot
from jobs.trainer_copy import lock_file
from jobs.work import last_lines, newest_checkpoint, prune_checkpoints, step_of, write_document
from train.config import Execution

LOOK_S = 2.0
"""Between two looks at the machine: what it measured is here within 10 s."""
SILENT_S = 60.0
"""Without an answer for so long, a person is told."""
DOCUMENTS = ("end.json", "data.json", "best.json", "eval.json")
FOLDERS = ("adapter", "adapter_last")
LOGS = ("trainer", "evaluate", "run", "environment")
LOOK = """\
cd {folder} || exit 0
for each in phase train.exit evaluate.exit; do cat "$each" 2> /dev/null || echo; done
if flock --shared --nonblock .run.lock true; then echo free; else echo held; fi"""
"""The task holds its lock for as long as it lives."""
DEAD_LOOKS = 3
WAITING_S = 60.0
"""Within which a task that waits for data that is there has seen it."""
BEGINS_WITHIN_S = 300.0
"""A task that SkyPilot has handed to an idle machine runs by then."""
TOUCH_S = 20.0
"""Between two signs to the machine that results are on their way home."""
RESTARTS = 3
MOST_LOST = 5
"""Servers of SkyPilot that may be lost in one attempt."""
WAITS = {
    "": "SkyPilot sets the machine up",
    "waiting": "waiting for the data",
    "environment": "making the trainer's environment",
}
"""Phases of the task before it trains, as a person is told them."""
NOT_STARTED = 75
"""How the task ends where it did not come to the training (EX_TEMPFAIL)."""


class RemoteRun:
    def __init__(
        self,
        home: Home,
        write: DriverWrites,
        job: Job,
        choice: PricedOffer,
        clock: Clock,
        *,
        shell: Shell,
        record: RecordFile,
        provider: Provider,
        sky: SkyPilot,
        ready: Callable[[], None],
    ) -> None:
        self._home, self._write, self._job, self._choice, self._clock = home, write, job, choice, clock
        self._shell, self._file, self._provider, self._sky, self._ready = shell, record, provider, sky, ready
        self._spec, self._work, self._logs = job.spec, home.work(job.id), home.logs(job.id)
        self._work.mkdir(parents=True, exist_ok=True)
        self._folder = str(folder_on_host(job.id))
        self._command: Command = "train"
        self._ended: int | None = None
        self._dead_looks = self._restarts = 0
        self._handed_at: float | None = None
        self._brought: str | None = None
        self._touched_at = float("-inf")
        self._came_at: datetime | None = None
        self._meter = Meter(write, clock)
        self._held = False
        self._lost = 0
        self._submitted_at = clock.monotonic()
        self._looked_at = self._answered_at = clock.monotonic()
        execution = execution_of(choice)
        # A machine of a test has no GPU, whatever it is sold as.
        if os.environ.get("LAUNCH_RENTED_DEVICE") == "cpu":
            execution = Execution(device="cpu", precision="fp32", processes=execution.processes)
        self._pins = pins_for(choice.offer.gpu if execution.device == "cuda" else None)
        lock = lock_file(self._pins.platform)
        self._config = run_on_host(self._spec, execution, f"{lock.name}")

    @cached_property
    def _parcel(self) -> dict[str, upload.Item]:
        """Only where something is sent: a driver that takes over needs none of the files."""
        documents = self._file.folder / "documents"
        return parcel_of(self._home, self._spec, self._config, self._pins.platform, documents)

    # ---- sent and started ----

    def begin(self) -> None:
        """The pull of the container image starts with the first login, and SkyPilot's set-up beside the upload."""
        if self._file.current().launch_request is not None:
            return
        document = self._task()
        self._spec.results.mkdir(parents=True, exist_ok=True)
        write_document(self._spec.results / "task.yaml", task_text(document))
        if self._spec.container is not False:
            script = f"{ON_HOST}/pull-{self._job.id}.sh"
            background = f"nohup bash {shlex.quote(script)} > /dev/null 2>&1 < /dev/null &"
            self._shell.run(
                f"mkdir -p {ON_HOST} && cat > {shlex.quote(script)} && {{ {background} }}", stdin=early_pull(document)
            )
        try:
            self._launch()
        except RequestLost as error:  # the next look asks again
            print(error, flush=True)

    def _task(self) -> dict[str, object]:
        record, offer = self._file.current(), self._choice.offer
        images = PLATFORMS["cuda"], PLATFORMS["volta"]
        default = self._pins if self._pins.image else images[0]
        envs = {
            "LAUNCH_CONTAINER": "none" if self._spec.container is False else "auto",
            "LAUNCH_IMAGE": self._spec.image or str(default.image),
            # A named image is taken whatever the driver.
            "LAUNCH_IMAGE_CUDA12": "" if self._spec.image else str(images[1].image),
            "LAUNCH_RESERVE_S": str(math.ceil(record.reserve_s)),
            "LAUNCH_EVALUATE_S": str(math.ceil(record.evaluation_s)),
        }
        return task_document(
            job=self._job.id,
            method=self._spec.run.method,
            cloud=self._provider.name,
            region=str(offer.region),
            instance_type=offer.instance_type,
            idle_minutes=math.ceil(record.on_host_s / 60),
            envs=envs,
            resources=self._provider.resources(),
            file_mounts=mounts_of(self._parcel, self._job.id),
        )

    def _launch(self) -> None:
        self._ready()
        record = self._file.current()
        task = submitted(self._task(), wait_s=math.ceil(record.on_host_s))
        self._handed_at = None
        self._file.change(launch_request=self._sky.launch(task, record.cluster))

    def sync(self, say: Say) -> None:
        """Uploads what is not there, and says so with the marker; a cut connection is taken up again."""
        check_inputs(self._spec, self._work)
        write_document(self._work / "run.json", self._config.model_dump_json(by_alias=True, indent=2))

        def sent(done: int, total: int) -> None:
            say(PhaseProgress(name="sending model and data", done=done, total=total, unit="bytes"))

        hashes = upload.Hashes(self._home.root / "hashes.json")
        while True:
            try:
                upload.send(
                    self._shell, self._parcel, root=str(ON_HOST), job=self._job.id, hashes=hashes,
                    staging=self._file.folder / "staging", say=sent,
                )  # fmt: skip
            except Unreachable as error:
                self._bear(error)
                self._clock.sleep(LOOK_S)
            else:
                self._answered()
                return

    # ---- watched ----

    def submit(self, command: Command) -> None:
        """The task on the machine does both, one after the other, whether a driver looks or not."""
        self._command, self._ended, self._submitted_at = command, None, self._clock.monotonic()

    def poll(self, timeout_s: float) -> int | None:
        if self._ended is not None:
            return self._ended
        self._clock.sleep(timeout_s)
        if self._clock.monotonic() - self._looked_at < LOOK_S:
            return None
        try:
            self._ended = self._look()
            self._answered()
        except Unreachable as error:
            self._bear(error)
        except OSError as error:  # this computer's disk; on the machine it goes on
            self._not_brought(error)
        self._looked_at = self._clock.monotonic()
        return self._ended

    def _look(self) -> int | None:
        """Brings home what is new, and says how the command ended, where it has."""
        said = self._shell.run(LOOK.format(folder=shlex.quote(self._folder)))
        phase, train, evaluate, lock, *_ = [*said.out.split("\n"), "", "", "", ""]
        self._bring_growing()
        if self._command == "train":
            if train.strip():
                self.collect()
                return int(train)
            self._bring_checkpoint()
        elif evaluate.strip():
            return int(evaluate)
        if phase == "finished":
            return self._not_run()
        waited_s = self._clock.monotonic() - self._submitted_at
        if phase in WAITS and self._command == "train":
            self._write.phase(PhaseProgress(name=WAITS[phase], done=round(waited_s), unit="s"))
        if not phase or (phase == "waiting" and waited_s < WAITING_S):
            self._look_at_skypilot(begun=bool(phase))
        else:
            self._look_at_task(alive=lock != "free")
        return None

    def _not_run(self) -> int:
        """The task is over, and the command was not run in it; its log says why."""
        said = last_lines(self._logs / "run.log", count=1)
        if self._command == "evaluate":
            (self._logs / "evaluate.log").write_text(f"{said}\n")
            return NOT_STARTED
        raise LaunchError(
            f"The training did not begin on the machine: {said}",
            why=last_lines(self._logs / "environment.log", count=3),
            next_step=f"launch logs {self._job.id}",
        )

    def _look_at_task(self, *, alive: bool) -> None:
        """A task that was killed with all that it ran, by a reboot above all, is given to SkyPilot again.

        It goes on from its last checkpoint.
        """
        self._dead_looks = 0 if alive else self._dead_looks + 1
        if self._dead_looks < DEAD_LOOKS:
            return
        if self._restarts == RESTARTS:
            raise LaunchError(
                f"The task was killed on the machine {RESTARTS + 1} times",
                why=last_lines(self._logs / "run.log", count=3),
                next_step=f"launch logs {self._job.id}",
            )
        self._restarts, self._dead_looks = self._restarts + 1, 0
        print("the task on the machine was killed; it is started again", flush=True)
        self._shell.run(f"rm -f {shlex.quote(self._folder)}/phase")
        self._ready()
        self._launch()

    def _look_at_skypilot(self, *, begun: bool) -> None:
        """Its failure is the job's; where only its server was lost, the machine is given to a new one."""
        record = self._file.current()
        try:
            if record.launch_request is None:
                self._launch()
            elif self._sky.finished(record.launch_request) and not begun:
                self._not_begun(record.cluster)
        except RequestLost as error:
            print(f"{error}; SkyPilot is asked again", flush=True)
            self._lost += 1
            if self._lost > MOST_LOST:
                raise
            self._sky.start()
            self._launch()

    def _not_begun(self, cluster: str) -> None:
        """SkyPilot says that it has handed the task over."""
        now = self._clock.monotonic()
        self._handed_at = self._handed_at or now
        if now - self._handed_at > BEGINS_WITHIN_S:
            raise LaunchError(
                f"The task was given to the machine and has not begun within {BEGINS_WITHIN_S / 60:.0f} min",
                why=f"SkyPilot says of it: {self._sky.job_state(cluster) or 'nothing'}",
                next_step=f"launch resume {self._job.id}",
            )

    def _bring_growing(self) -> None:
        download.follow(self._shell, f"{self._folder}/work/metrics.jsonl", self._work / "metrics.jsonl")
        for name in LOGS:
            download.follow(self._shell, f"{self._folder}/logs/{name}.log", self._logs / f"{name}.log")

    def _bring_checkpoint(self) -> None:
        """The newest whole one, where it is newer than what is here; the trainer has renamed it in."""
        names = download.names(self._shell, f"{self._folder}/work/checkpoints")
        there = {name: step for name in names if (step := step_of(name))}
        newest = max(there, key=there.__getitem__, default=None)
        here = newest_checkpoint(self._work)
        if newest is None or newest == self._brought:
            return
        try:
            if here is None or (step_of(here.name) or 0) < there[newest]:
                self._fetch(f"checkpoints/{newest}")
            for name in ("adapter", "best.json"):
                self._fetch(name)
            self._brought = newest
            prune_checkpoints(self._work)
        except NotWhole as error:  # it was rotated away, or replaced, while it was copied: the next look brings another
            print(error, flush=True)

    def stop(self, grace_s: float) -> None:
        if self._ended is not None:
            return
        give_up = self._clock.monotonic() + grace_s
        try:
            self._shell.run(f"touch {shlex.quote(self._folder)}/stop")
            while self._ended is None and self._clock.monotonic() < give_up:
                self._ended = self._look()
                self._clock.sleep(LOOK_S / 4)
        except LaunchError as error:
            print(error, flush=True)
        if self._ended is None:
            self._ended = -9

    # ---- brought home ----

    def collect(self) -> None:
        """All that is there, verified, into the work folder. Raises Unreachable, or MachineGone for that reason."""
        try:
            if self._came_at is None:  # whoever comes to bring them home has the whole hold for it
                self._touch()
            self._bring_growing()
            self._bring_checkpoint()
            for name in (*DOCUMENTS, *FOLDERS, "metrics.jsonl"):
                self._fetch(name)
        except Unreachable as error:
            self._look_for_it(error)
            raise

    def _fetch(self, name: str) -> None:
        def came(done: int, total: int) -> None:
            self._meter(PhaseProgress(name=f"bringing {name} home", done=done, total=total, unit="bytes"))
            self._touch()

        download.fetch(self._shell, f"{self._folder}/work/{name}", self._work / name, say=came)

    def _touch(self) -> None:
        """The machine holds finished results for `--hold`, counted from the last touch."""
        self._came_at = self._clock.now()
        if self._spec.hold_minutes is None or self._clock.monotonic() - self._touched_at < TOUCH_S:
            return
        self._touched_at = self._clock.monotonic()
        self._shell.run(f"touch -c {shlex.quote(self._folder)}/phase")

    def held_until(self) -> datetime:
        """The budget's deadline, or `--hold` after something of the results came, whichever is sooner."""
        record, hold = self._file.current(), self._spec.hold_minutes
        line = record.at(record.on_host_s)
        return line if hold is None or self._came_at is None else min(line, self._came_at + timedelta(minutes=hold))

    def _not_brought(self, error: OSError) -> None:
        until, command = self.held_until(), f"launch status {self._job.id}"
        print(f"not brought home: {error}", flush=True)
        held = Attention(code="results_held", until=until, costing=True, command=command, message=str(error))
        self._write.set_attention(held)
        self._held = True

    def _answered(self) -> None:
        if self._held:
            self._write.clear_attention("results_held")
            self._held = False
        if self._clock.monotonic() - self._answered_at > SILENT_S:
            self._write.clear_attention("unreachable")
        self._answered_at = self._clock.monotonic()

    def _look_for_it(self, error: Unreachable) -> None:
        raise_if_gone(self._provider, self._file.current(), self._clock, job_id=self._job.id, why=error.what)

    def _bear(self, error: Unreachable) -> None:
        """A machine that does not answer is looked for at the provider; it may come back until its time is up."""
        self._look_for_it(error)
        record = self._file.current()
        if self._clock.now() > record.at(record.on_host_s):
            raise error
        silent_s = self._clock.monotonic() - self._answered_at
        print(f"{error} (for {silent_s:.0f} s)", flush=True)
        if silent_s > SILENT_S:
            command = f"launch status {self._job.id} --watch"
            self._write.set_attention(Attention(code="unreachable", costing=True, command=command, message=error.what))


def execution_of(choice: PricedOffer) -> Execution:
    option = choice.option
    return Execution(
        device=option.device,
        precision=option.trainer.precision,
        quantization=option.trainer.quantization,
        gradient_checkpointing=option.trainer.gradient_checkpointing,
        share_prompts=option.trainer.share_prompts,
        processes=max(1, option.gpus),
    )
