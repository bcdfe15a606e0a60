"""The walk of a job: its attempts, each from state to state by a table of steps, until one gives the outcome.

Each step looks at the world, acts, and names the next state. A driver that was killed leaves the world as it was. On
this machine the next one opens a new attempt and walks again; in a cloud it takes the machine over where it stands.
What is done already (an environment, a finished training, an artifact at home) is seen, not repeated.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

from artifacts.errors import CredentialProblem, HostKeyChanged, LaunchError, LeaseLost, MachineGone, StoreFailed
from jobs import unended
from jobs.backends import CancelledEarly, CloudSilent, Command, OfferFailed
from jobs.backends.choose import BackendOf, backend_of, place, ranked
from jobs.clock import Clock, SystemClock
from jobs.clouds import CLOUDS
from jobs.home import Home
from jobs.job import Attempt, Attention, Job, Outcome, PhaseProgress, State
from jobs.learned import rate_of_run
from jobs.lease import DriverWrites
from jobs.meter import Meter
from jobs.offer import PricedOffer
from jobs.pull import bring_results, write_account
from jobs.store import Store
from jobs.tail import MetricsTail
from jobs.task_watch import TaskWatch, cancel_mode
from jobs.verdict import Verdict, judge, read_verdict, said_by_end, write_verdict
from jobs.work import has_result, last_lines, read_end

HELD_PAUSE_S = 10.0
NO_MACHINE = "No machine could be had."
"""How the error of a job begins that was refused everywhere."""


class Walk:
    """One driver's way through a job. `run` returns when the job is done.

    It raises LeaseLost when another driver took over, StoreFailed when nothing can be recorded any more, LaunchError
    where a machine could not be seen to end; what must not run without a driver has ended by then.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        job: Job,
        write: DriverWrites,
        *,
        backends: BackendOf = backend_of,
        clock: Clock | None = None,
    ) -> None:
        self.home, self.store, self.job, self.write = home, store, job, write
        self.clock = clock or SystemClock()
        self.work, self.logs = home.work(job.id), home.logs(job.id)
        self.verdict: Verdict | None = None
        self.refused: str | None = None
        self._elsewhere: list[PricedOffer] = []
        """What other clouds have, where this one does not answer or rents nothing with these credentials (`_shut`)."""
        self._shut = False
        self._backends = backends
        self._meter = Meter(write, self.clock)

    # ---- attempts ----

    def run(self) -> Outcome:
        """Attempts, one offer after the other, until a machine could be had."""
        tried: list[str] = []
        attempt = self._take_over()
        choices = self._choices(attempt)
        while True:
            choice = choices.pop(0)
            number = attempt.number if attempt else self.store.job(self.job.id).last_attempt + 1
            offer = choice.offer
            self._elsewhere = [other for other in choices if other.offer.cloud != offer.cloud]
            try:
                self.backend = self._backends(self.home, self.store, self.write, self.job, choice, number, self.clock)
            except LaunchError as error:  # no credentials that can be used, or without what rents there
                if attempt or not self._elsewhere:
                    raise
                tried.append(f"  {offer.cloud}: {error.what}")
                choices = self._elsewhere
                continue
            self._walk(attempt or self._open(choice))
            if self.refused is None or self.verdict is not None:
                break
            rest = [other for other in choices if place(other) != place(choice)]
            choices = self._elsewhere if self._shut else rest
            tried.append(f"  {offer.cloud} {offer.instance_type} in {offer.region}: {self.refused}")
            if not choices or self._cancel():
                break
            self.write.end_attempt(number, self.clock.now(), failure=self.refused, billed=self.backend.billed())
            attempt = None
        verdict = self.verdict or self._nothing_came(tried)
        self.write.clear_attention("driver_lost")  # a status that looked just before this driver began
        self.write.finish(number, verdict.outcome, verdict.error, self.clock.now(), billed=self.backend.billed())
        if verdict.outcome in (Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED):
            self._learn()
        self._account()
        return verdict.outcome

    def _nothing_came(self, tried: list[str]) -> Verdict:
        if self._cancel():
            return Verdict(outcome=Outcome.CANCELLED)
        following = f"Next: launch resume {self.job.id}, when there may be one again"
        if self._shut and len(tried) == 1:  # nobody said that there is none
            return Verdict(outcome=Outcome.FAILED, error=f"{self.refused}\n{following}")
        asked = "\n".join([f"{NO_MACHINE} Tried, in the order of the plan:", *tried])
        return Verdict(outcome=Outcome.FAILED, error=f"{asked}\n{following}")

    def _take_over(self) -> Attempt | None:
        """The attempt of an earlier driver whose machine is rented, if there is one. One on this machine has ended."""
        open_ones = [attempt for attempt in self.job.attempts if attempt.state is not State.ENDED]
        for attempt in open_ones:
            if attempt.cloud != "local":
                return attempt
            now = self.clock.now()
            if attempt.state is not State.TEARING_DOWN:
                self.write.move(attempt.number, State.TEARING_DOWN, now)
            self.write.move(attempt.number, State.ENDED, now, failure="its driver was lost")
        return None

    def _choices(self, attempt: Attempt | None) -> list[PricedOffer]:
        """The offers to try: that of the attempt taken over, then the chosen one, then what else fits, as ranked.

        A plan over several clouds is tried over all of them that there are credentials for; this machine never takes
        the place of a rented one.
        """
        plan = self.job.spec.plan
        assert plan.choice is not None, "a plan that fits nothing is no job"
        if plan.choice.offer.cloud == "local":
            return [plan.choice]
        offers = ranked(plan)
        if attempt is not None:
            there = (attempt.cloud, attempt.instance_type, attempt.region)
            taken = [one for one in offers if place(one) == there]
            offers = [*taken[:1], *(one for one in offers if one not in taken)]
        return offers

    def _open(self, choice: PricedOffer) -> Attempt:
        unit_s = CLOUDS[choice.offer.cloud].billing_unit_s
        return self.write.open_attempt(choice.offer, now=self.clock.now(), billing_unit_s=unit_s)

    def _walk(self, attempt: Attempt) -> None:
        """From the attempt's state until its machine is gone; `verdict`, or `refused`, says how it went."""
        number, state, folder = attempt.number, attempt.state, self.home.job(self.job.id)
        self.verdict, self.refused, self._shut = read_verdict(folder, number), None, False
        try:
            while state is not State.TEARING_DOWN:
                following = self._step(number, state)
                if self.verdict is not None:
                    write_verdict(folder, number, self.verdict)
                self.write.move(number, following, self.clock.now())
                state = following
                if state is not State.TEARING_DOWN:  # this log is among the results, which are home by then
                    _log(f"{self.clock.now():%H:%M:%S} {state}")
            self._give_back()
        except BaseException:
            self.backend.leave()
            raise
        if self.verdict is None and self.refused is None:  # a verdict stands on disk before anything is torn down
            self.refused = "its driver was lost before there was a machine"

    def _give_back(self) -> None:
        try:
            self.backend.destroy()
        except LaunchError as error:
            _log(str(error))
            command = error.next_step or f"launch status {self.job.id}"
            reason = error.why.partition("\n")[0]
            message = " ".join(part for part in (error.what, reason, error.costing) if part)
            self.write.set_attention(
                Attention(code="teardown_unconfirmed", costing=True, command=command, message=message)
            )
            unended.note(self.home.root, self.job.id, f"{self.job.id}: {message} {command}")
            raise
        unended.clear(self.home.root, self.job.id)
        for code in ("teardown_unconfirmed", "results_held", "unreachable", "budget_short"):
            self.write.clear_attention(code)

    # ---- the steps of one attempt ----

    def _step(self, number: int, state: State) -> State:
        """One step; a failure ends the attempt, after what there is came home."""
        try:
            return STEPS[state](self, number)
        except (LeaseLost, StoreFailed):
            raise
        except CancelledEarly:
            return self._cancelled(state)
        except OfferFailed as error:
            _log(f"no machine: {error}")
            self.refused, self._shut = str(error), isinstance(error, CloudSilent)
            return State.TEARING_DOWN
        except (LaunchError, OSError) as error:
            _log(f"{state} failed: {error}")
            if isinstance(error, CredentialProblem) and state is State.PROVISIONING and self._elsewhere:
                self.refused, self._shut = error.what, True
                return State.TEARING_DOWN
            if state is State.EVALUATING:
                return State.PULLING
            if self.verdict is None or state is State.PULLING:
                self.verdict = Verdict(outcome=Outcome.FAILED, error=str(error))
            return State.PULLING if state is State.TRAINING else State.TEARING_DOWN

    def provision(self, number: int) -> State:
        if self._cancel():
            raise CancelledEarly
        machine = self.backend.create(self._say)
        self.write.has_machine(number, machine.instance_id, machine.billed_from)
        return State.SYNCING

    def sync(self, number: int) -> State:
        if self._cancel():
            raise CancelledEarly
        self.backend.sync(self._say)
        return State.TRAINING

    def train(self, number: int) -> State:
        end = read_end(self.work)
        if said_by_end(end, kept=True) is Outcome.SUCCEEDED:
            _log("the training had ended before; nothing to train")
            self.verdict = Verdict(outcome=Outcome.SUCCEEDED)
            return self._after_training()
        if self._cancel():
            raise CancelledEarly
        for stale in ("end.json", "eval.json"):
            (self.work / stale).unlink(missing_ok=True)
        log = self.logs / "trainer.log"
        begin = log.stat().st_size if log.exists() else 0
        status = self._run("train", MetricsTail(self.work / "metrics.jsonl"))
        self.verdict = judge(
            self.job.id,
            read_end(self.work),
            status,
            cancelled=self._cancel() is not None,
            budget_over=self._budget_is_over(),
            kept=has_result(self.work),
            last_lines=last_lines(log, begin),
        )
        return self._after_training()

    def _budget_is_over(self) -> bool:
        left_s = self.backend.time_left_s()
        return left_s is not None and left_s <= 0

    def _after_training(self) -> State:
        assert self.verdict is not None
        if self._cancel() == "now":
            return State.TEARING_DOWN
        good = self.verdict.outcome in (Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED)
        if good and self.job.spec.test and not self._cancel() and (self.work / "adapter").is_dir():
            return State.EVALUATING
        return State.PULLING

    def evaluate(self, number: int) -> State:
        """Its failure is the report's to tell: the adapter is trained and comes home whatever this says."""
        if (self.work / "eval.json").exists():
            return State.PULLING
        status = self._run("evaluate", None)
        if status:
            log = self.logs / "evaluate.log"
            how = f"exit {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            said = f"{how}: {last_lines(log, count=1)}"
            _log(f"the evaluation failed, {said}")
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write(said + "\n")  # for whoever asks later why there is none
        return State.PULLING

    def pull(self, number: int) -> State:
        while True:
            try:
                self.backend.collect()
                break
            except (MachineGone, HostKeyChanged) as error:  # nothing more is taken from it
                _log(f"{error}; what had come home before is kept")
                break
            except (LaunchError, OSError) as error:
                self._hold(error)
        self.write.clear_attention("results_held")
        bring_results(self.home, self.job)
        return State.TEARING_DOWN

    def _hold(self, error: Exception) -> None:
        """Results that cannot come home wait on their machine, as long as it is paid for. Raises `error` after that."""
        until = self.backend.held_until()
        if until is None or until <= self.clock.now() or self._cancel() == "now":
            raise error
        _log(f"the results wait on the machine: {error}")
        command = f"launch status {self.job.id}"
        held = Attention(code="results_held", until=until, costing=True, command=command, message=str(error))
        self.write.set_attention(held)
        self.clock.sleep(HELD_PAUSE_S)

    def _run(self, command: Command, tail: MetricsTail | None) -> int:
        """Starts the command and waits for its end. Its exit status."""
        self.backend.submit(command)
        return TaskWatch(self.backend, self.write, self.clock, self.job.id, tail).wait()

    def _cancel(self) -> str | None:
        return cancel_mode(self.write)

    def _cancelled(self, state: State) -> State:
        """Nothing runs. What an earlier attempt left comes home first, unless it was `--now`."""
        self.verdict = Verdict(outcome=Outcome.CANCELLED)
        if self._cancel() == "now" or not has_result(self.work):
            return State.TEARING_DOWN
        onward = {State.PROVISIONING: State.SYNCING, State.SYNCING: State.TRAINING}
        return onward.get(state, State.PULLING)

    def _say(self, phase: PhaseProgress) -> None:
        """Shows how far a long call is, and ends it where the job is to be cancelled."""
        if self._meter(phase) and self._cancel():
            raise CancelledEarly

    # ---- after the end ----

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


Step = Callable[[Walk, int], State]

# tearing_down and what follows are `Walk._walk`'s own: they happen whatever else did.
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
