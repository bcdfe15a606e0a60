"""The walk of one attempt: a table of state -> step. Each step looks at the world, acts, and names the next state.

A driver that was killed leaves the world as it was; the next one opens a new attempt and walks again. What is done
already (an environment, a finished training, an artifact at home) is seen, not repeated.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from artifacts.errors import LaunchError, LeaseLost, StoreFailed
from jobs import environment
from jobs.backends import Backend, Host, Task
from jobs.backends.local import LocalBackend
from jobs.clock import Clock, SystemClock
from jobs.environment import Environment, child_environ
from jobs.evaluation import eval_config
from jobs.home import Home
from jobs.inputs import check_inputs
from jobs.job import Job, Outcome, PhaseProgress, State
from jobs.learned import rate_of_run
from jobs.lease import DriverWrites
from jobs.offer import Offer
from jobs.pull import bring_results, write_account
from jobs.store import Store
from jobs.tail import MetricsTail
from jobs.task_watch import PROGRESS_EVERY_S, TaskWatch, cancel_mode
from jobs.verdict import Verdict, judge, said_by_end
from jobs.work import has_result, last_lines, read_end, write_document


class CancelledEarlyError(Exception):
    """A cancellation that came while a step could not look for it by itself."""


class Walk:
    """One driver's way through a job. `run` returns when the job is done.

    It raises LeaseLost when another driver took over, StoreFailed when nothing can be recorded any more; the trainer
    has ended by then.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        job: Job,
        write: DriverWrites,
        *,
        backend: Backend | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.home, self.store, self.job, self.write = home, store, job, write
        self.backend = backend or LocalBackend(home, job.id)
        self.clock = clock or SystemClock()
        self.work, self.logs = home.work(job.id), home.logs(job.id)
        self.host = Host(socket.gethostname(), self.work)
        self.environment: Environment | None = None
        self.verdict: Verdict | None = None
        self._said_at = float("-inf")

    def run(self) -> Outcome:
        try:
            self.host = self.backend.create(self.job.id)
            self._end_lost_attempts()
            choice = self.job.spec.plan.choice
            offer = choice.offer if choice else Offer(cloud="local", instance_type=self.host.name)
            number = self.write.open_attempt(offer, instance_id=self.host.name, now=self.clock.now()).number
            state = State.PROVISIONING
            while state is not State.TEARING_DOWN:
                following = self._step(state)
                self.write.move(number, following, self.clock.now())
                state = following
            self.backend.destroy(self.host)
        except BaseException:
            # Whatever it was, no trainer runs on without a driver.
            self.backend.destroy(self.host)
            raise
        verdict = self.verdict or Verdict(Outcome.FAILED, "The attempt ended without a result.")
        self.write.clear_attention("driver_lost")  # a status that looked just before this driver began
        self.write.finish(number, verdict.outcome, verdict.error, self.clock.now())
        if verdict.outcome in (Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED):
            self._learn()
        self._account()
        return verdict.outcome

    def _step(self, state: State) -> State:
        """One step; a failure ends the attempt, after what there is came home."""
        try:
            return STEPS[state](self)
        except (LeaseLost, StoreFailed):
            raise
        except CancelledEarlyError:
            return self._cancelled(state)
        except (LaunchError, OSError) as error:
            _log(f"{state} failed: {error}")
            if state is State.EVALUATING:
                return State.PULLING
            if self.verdict is None or state is State.PULLING:
                self.verdict = Verdict(Outcome.FAILED, str(error))
            return State.PULLING if state is State.TRAINING else State.TEARING_DOWN

    def provision(self) -> State:
        if self._cancel():
            raise CancelledEarlyError
        spec = self.job.spec
        self.environment = environment.ensure(
            self.home,
            device=spec.run.execution.device,
            python=spec.train_python,
            pip_args=spec.pip_args,
            say=self._installing,
        )
        return State.SYNCING

    def sync(self) -> State:
        if self._cancel():
            raise CancelledEarlyError
        assert self.environment is not None
        check_inputs(self.job.spec, self.work)
        self.home.reference_cache.mkdir(parents=True, exist_ok=True)
        run = self.job.spec.run.model_copy(update={"lock": self.job.spec.run.lock or self.environment.lock})
        write_document(self.work / "run.json", run.model_dump_json(by_alias=True, indent=2))
        return State.TRAINING

    def train(self) -> State:
        end = read_end(self.work)
        if said_by_end(end, kept=True) is Outcome.SUCCEEDED:
            _log("the training had ended before; nothing to train")
            self.verdict = Verdict(Outcome.SUCCEEDED)
            return self._after_training()
        if self._cancel():
            raise CancelledEarlyError
        for stale in ("end.json", "eval.json"):
            (self.work / stale).unlink(missing_ok=True)
        log = self.logs / "trainer.log"
        begin = log.stat().st_size if log.exists() else 0
        self._submit("dpo", self.work / "run.json", log, "--stop-on-eof")
        status = self._watch(MetricsTail(self.work / "metrics.jsonl"))
        self.verdict = judge(
            self.job.id,
            read_end(self.work),
            status,
            cancelled=self._cancel() is not None,
            kept=has_result(self.work),
            last_lines=last_lines(log, begin),
        )
        return self._after_training()

    def _after_training(self) -> State:
        assert self.verdict is not None
        if self._cancel() == "now":
            return State.TEARING_DOWN
        good = self.verdict.outcome in (Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED)
        if good and self.job.spec.test and not self._cancel() and (self.work / "adapter").is_dir():
            return State.EVALUATING
        return State.PULLING

    def evaluate(self) -> State:
        """Its failure is the report's to tell: the adapter is trained and comes home whatever this says."""
        spec, output = self.job.spec, self.work / "eval.json"
        assert spec.test is not None
        if output.exists():
            return State.PULLING
        config = eval_config(spec, adapter=self.work / "adapter", test=spec.test, output=output)
        write_document(self.work / "evalrun.json", config.model_dump_json(by_alias=True, indent=2))
        self._submit("evaluate", self.work / "evalrun.json", self.logs / "evaluate.log", "--stop-on-eof")
        status = self._watch(None)
        if status:
            log = self.logs / "evaluate.log"
            how = f"exit {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            said = f"{how}: {last_lines(log, count=1)}"
            _log(f"the evaluation failed, {said}")
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write(said + "\n")  # for whoever asks later why there is none
        return State.PULLING

    def pull(self) -> State:
        bring_results(self.home, self.job)
        return State.TEARING_DOWN

    def _submit(self, command: str, config: Path, log: Path, *flags: str) -> None:
        assert self.environment is not None
        argv = (str(self.environment.python), "-m", "train", command, "--config", str(config), *flags)
        self.backend.submit(self.host, Task(argv, child_environ(self.environment), log))

    def _watch(self, tail: MetricsTail | None) -> int:
        """Waits for the task that was submitted. Its exit status."""
        return TaskWatch(self.backend, self.host, self.write, self.clock, self.job.id, tail).wait()

    def _cancel(self) -> str | None:
        return cancel_mode(self.write)

    def _cancelled(self, state: State) -> State:
        """Nothing runs. What an earlier attempt left comes home first, unless it was `--now`."""
        self.verdict = Verdict(Outcome.CANCELLED)
        if self._cancel() == "now" or not has_result(self.work):
            return State.TEARING_DOWN
        onward = {State.PROVISIONING: State.SYNCING, State.SYNCING: State.TRAINING}
        return onward.get(state, State.PULLING)

    def _installing(self, line: str) -> None:
        _log(line)
        if self.clock.monotonic() - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = self.clock.monotonic()
            self.write.phase(PhaseProgress(name=line[:80], done=0, unit="packages"))
            if self._cancel():
                raise CancelledEarlyError

    def _end_lost_attempts(self) -> None:
        for attempt in self.job.attempts:
            if attempt.state is not State.ENDED:
                now = self.clock.now()
                if attempt.state is not State.TEARING_DOWN:
                    self.write.move(attempt.number, State.TEARING_DOWN, now)
                self.write.move(attempt.number, State.ENDED, now, failure="its driver was lost")

    def _learn(self) -> None:
        """A whole run teaches how fast its device is; later plans rest on it."""
        rate = rate_of_run(self.job.spec, self.work / "metrics.jsonl", self.clock.now())
        if rate is not None:
            self.store.add_rate(rate)

    def _account(self) -> None:
        """After the end, so that it carries the whole bill. `launch pull` writes it again where this fails."""
        try:
            self.job.spec.results.mkdir(parents=True, exist_ok=True)
            write_account(self.store, self.store.job(self.job.id))
        except OSError as error:
            _log(f"no report: {error}; launch pull {self.job.id} writes it")


Step = Callable[[Walk], State]

# tearing_down and what follows are `Walk.run`'s own: they happen whatever else did.
STEPS: dict[State, Step] = {
    State.PROVISIONING: Walk.provision,
    State.SYNCING: Walk.sync,
    State.TRAINING: Walk.train,
    State.EVALUATING: Walk.evaluate,
    State.PULLING: Walk.pull,
}


def _log(line: str) -> None:
    with contextlib.suppress(OSError):  # the log's disk is full, which is no reason to give the job up
        print(line, flush=True)
