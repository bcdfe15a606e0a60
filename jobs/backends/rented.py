"""A rented machine, from the intent on disk to the provider's list without it.

create: price and capacity asked again -> intent -> one create call, whose user data arms the deadline -> listed once
and active -> SkyPilot adopts it, we log in. What comes then is `remote_run`'s. destroy: terminate, by id, until the
provider's list agrees; that is never left to SkyPilot.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta

from artifacts.errors import CredentialProblem, HostKeyChanged, LaunchError, MachineGone, Unreachable
from artifacts.host import RemoteHost, make_host_key
from artifacts.shell import Said, Shell
from jobs.allowance import allowance, left_usd
from jobs.backends import Command, Machine, OfferFailed, Say
from jobs.backends.ending import end
from jobs.backends.machine_record import MachineRecord, RecordFile, cluster_name
from jobs.backends.provider import (
    LISTED_WITHIN_S,
    LOOK_S,
    CreateUncertain,
    Instance,
    Order,
    Provider,
    gone,
    raise_if_gone,
)
from jobs.backends.remote_run import RemoteRun
from jobs.clock import Clock
from jobs.guard import PUBLISHED, user_data
from jobs.home import Home
from jobs.job import Attention, Job, PhaseProgress
from jobs.lease import DriverWrites
from jobs.meter import Meter
from jobs.offer import Offer, PricedOffer
from jobs.parcel import folder_on_host
from jobs.skypilot import SkyPilot
from jobs.store import Store

USER = "ubuntu"
UNSEEN_S = 300.0
"""A boot at which nobody has looked for so long may be over."""
SLACK_S = 120.0
"""By which a machine's own deadline may be off: its clock is set while it boots."""
FIRST_WORDS = (
    f"cat {PUBLISHED}; date +%s; n=0; "
    "until pgrep -f '[d]eadline run' > /dev/null || [ $n = 40 ]; do sleep 0.5; n=$((n + 1)); done; "
    "pgrep -cf '[d]eadline run' || true"
)
"""What is asked of a machine first. Arming says the deadline; systemd may start what keeps it a little later."""


class RentedMachine:
    """One attempt's machine at `provider`. A `Backend`."""

    def __init__(
        self,
        home: Home,
        store: Store,
        write: DriverWrites,
        job: Job,
        choice: PricedOffer,
        number: int,
        clock: Clock,
        *,
        provider: Provider,
        sky: SkyPilot,
    ) -> None:
        self._home, self._store, self._write, self._clock = home, store, write, clock
        self._job, self._choice, self._number = job, choice, number
        self._provider, self._sky = provider, sky
        self._file = RecordFile(home.job(job.id) / f"machine-{number}")
        self._shell: Shell | None = None
        self._run: RemoteRun | None = None
        self._meter = Meter(write, clock)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="skypilot")
        self._starting: Future[None] | None = None
        self._command: Command = "train"
        self._stopped: int | None = None

    # ---- from the intent to the first login ----

    def create(self, say: Say) -> Machine:
        record = self._file.read() or self._intend()
        if record.create_refused:
            raise OfferFailed(record.create_refused)
        self._sky.prepare(self._offers())
        self._starting = self._pool.submit(self._sky.start)  # beside the machine's boot
        if record.create_called_at is None:
            self._call_create(record)
        self._nobody_looked(self._file.current())
        instance = self._wait_until_active(say)
        try:
            self._log_in(str(instance.address), say, limit_s=self._provider.login_within_s)
        except (Unreachable, HostKeyChanged) as error:
            self.destroy()
            raise OfferFailed(f"{error.what}, though it is listed as active", why=error.why) from error
        record = self._file.current()
        return Machine(instance.id, record.active_at)

    def _offers(self) -> list[Offer]:
        """All of the plan that this provider sells: a server that runs has read its catalogue, for other jobs too."""
        others = (one.offer for one in self._job.spec.plan.offers)
        return [self._choice.offer, *(one for one in others if one.cloud == self._provider.name and not one.spot)]

    def _nobody_looked(self, record: MachineRecord) -> None:
        """A machine that booted while nobody looked may have run to its own deadline: it is charged for, as is said."""
        last = record.looked_at or record.create_called_at
        assert last is not None
        unseen_s = (self._clock.now() - last).total_seconds()
        if record.active_at is None and unseen_s > UNSEEN_S and gone(self._provider, record, self._clock):
            self._file.change(active_at=last)
            raise MachineGone(
                f"The machine {record.instance_name} is gone; for {unseen_s / 60:.0f} min nobody here has looked at it",
                next_step=f"launch resume {self._job.id}",
            )

    def _intend(self) -> MachineRecord:
        """Asks for price and capacity again, and writes down what will be asked for, before it is."""
        offer, spec = self._choice.offer, self._job.spec
        quote = self._provider.quote(offer)
        if quote.capacity is False:
            raise OfferFailed(f"no capacity for {offer.instance_type} in {offer.region} now")
        assert spec.budget_usd is not None, "nothing is rented without a budget"
        left = left_usd(spec.budget_usd, [row for row in self._store.ledger(spec.id) if row.settled])
        allowed = allowance(self._provider.cloud, left, quote.price_per_hour, self._choice)
        if allowed is None:
            raise OfferFailed(
                f"at ${quote.price_per_hour:.2f} an hour, what is left of the budget (${left:.2f}) buys no training"
            )
        cluster = cluster_name(self._store.store_id, spec.id, self._number)
        self._write.price(self._number, quote.price_per_hour)
        private, public = make_host_key()
        self._file.folder.mkdir(parents=True, exist_ok=True)
        secret = self._file.folder / "host_key"
        secret.touch(mode=0o600)
        secret.write_text(private)
        return self._file.write(
            MachineRecord(
                cluster=cluster,
                instance_name=self._sky.instance_name(cluster),
                owner=self._provider.owner(),
                host_key=public,
                price_per_hour=quote.price_per_hour,
                charged_s=allowed.charged_s,
                on_host_s=allowed.on_host_s,
                reserve_s=allowed.reserve_s,
                evaluation_s=allowed.evaluation_s,
            )
        )

    def _call_create(self, record: MachineRecord) -> None:
        """The one call that costs money. Whatever it answers, its name is on disk."""
        offer, hold = self._choice.offer, self._job.spec.hold_minutes
        _, public = self._sky.key_pair()
        key_name = self._provider.ensure_ssh_key(self._sky.ssh_key_name, public)
        api, api_key = self._provider.on_host
        order = Order(
            name=record.instance_name,
            instance_type=offer.instance_type,
            region=str(offer.region),
            ssh_key_name=key_name,
            user_data=user_data(
                instance_name=record.instance_name,
                api=api,
                key=api_key,
                allowed_s=record.on_host_s,
                hold_s=hold * 60 if hold is not None else None,
                host_key_private=(self._file.folder / "host_key").read_text(),
                host_key_public=record.host_key,
                authorized_keys=() if key_name else (public,),
                job_folder=str(folder_on_host(self._job.id)),
            ),
        )
        self._file.change(create_called_at=self._clock.now())
        try:
            self._file.change(instance_id=self._provider.create(order))
        except (OfferFailed, CredentialProblem) as error:
            self._file.change(create_refused=f"{error.what} {error.why}".strip())
            raise
        except CreateUncertain as error:
            _log(f"{error}; looking for {record.instance_name} in the list")
        (self._file.folder / "host_key").unlink()  # it is on the machine, or nowhere

    def _wait_until_active(self, say: Say) -> Instance:
        """Until the provider lists exactly one machine of the name, healthy and with an address."""
        boot_s = self._provider.cloud.boot.high * 3600 + LISTED_WITHIN_S
        began, looked_at = self._clock.monotonic(), self._file.current().create_called_at
        while True:
            waited_s = self._clock.monotonic() - began
            try:
                found = self._one_of(self._provider.named(self._file.current().instance_name))
            except LaunchError as error:  # no network for a while: its deadline is on it
                if waited_s > boot_s:
                    raise
                _log(str(error))
                self._clock.sleep(LOOK_S)
                continue
            if found is None and waited_s > LISTED_WITHIN_S:
                self.destroy()
                raise OfferFailed("the create call made no machine that is listed")
            if found is not None and not found.healthy:
                self.destroy()
                raise OfferFailed(f"machine {found.id} is not healthy; it was ended")
            if found is not None and found.active and found.address:
                record = self._file.current()
                self._file.change(instance_id=found.id, address=found.address, active_at=record.active_at or looked_at)
                return found
            if waited_s > boot_s:
                self.destroy()
                raise OfferFailed(f"the machine was not active after {waited_s / 60:.0f} min; it was ended")
            looked_at = self._clock.now()
            self._file.change(looked_at=looked_at)
            say(PhaseProgress(name="waiting for the machine", done=round(waited_s), unit="s"))
            self._clock.sleep(LOOK_S)

    def _one_of(self, found: list[Instance]) -> Instance | None:
        """Of several machines of one name, which a create call that answered badly can make, all but one are ended."""
        if not found:
            return None
        mine = self._file.current().instance_id
        kept = next((one for one in found if one.id == mine), found[0])
        extra = [one.id for one in found if one.id != kept.id]
        if extra:
            _log(f"{len(found)} machines are called {kept.name}: ending {', '.join(extra)}")
            self._provider.terminate(extra)
        return kept

    def _log_in(self, address: str, say: Say, *, limit_s: float) -> None:
        """The first SSH, with the key that the create call put on the machine; its deadline must stand."""
        record = self._file.current()
        key_file, _ = self._sky.key_pair()
        shell = self._shell = Shell(RemoteHost(address, USER, key_file, record.host_key))
        said = self._first_words(shell, say, limit_s)
        numbers = [int(word) for word in said.out.split()]
        if len(numbers) == 3:
            self._file.change(ends_at=self._clock.now() + timedelta(seconds=numbers[0] - numbers[1]))
        if len(numbers) != 3 or numbers[0] - numbers[1] > record.on_host_s + SLACK_S or not numbers[2]:
            raise Unreachable("The machine has no deadline of its own", why=said.err.strip() or said.out.strip())
        self._run = RemoteRun(
            self._home, self._write, self._job, self._choice, self._clock, shell=shell, record=self._file,
            provider=self._provider, sky=self._sky, ready=self._sky_is_ready,
        )  # fmt: skip
        self._run.begin()

    def _first_words(self, shell: Shell, say: Say, limit_s: float) -> Said:
        """Its deadline, what time it is there, and how many processes keep the deadline, as soon as one can log in."""
        began = self._clock.monotonic()
        while True:
            try:
                return shell.run(FIRST_WORDS, timeout_s=30)
            except Unreachable:
                waited_s = self._clock.monotonic() - began
                if waited_s > limit_s:
                    raise
                say(PhaseProgress(name="waiting for the login", done=round(waited_s), unit="s"))
                self._clock.sleep(LOOK_S / 2)

    def _sky_is_ready(self) -> None:
        """Waits for the server that was started beside the boot; raises what went wrong with it."""
        if self._starting is not None:
            self._starting.result()

    # ---- while it is there ----

    def _running(self) -> RemoteRun:
        """A driver that takes over in the middle logs in first. The machine is never ended for that it cannot.

        Raises:
            Unreachable: not now; it may be later.
            MachineGone: it is listed no more.
            HostKeyChanged: something else answers.
        """
        if self._run is None:
            record = self._file.current()
            if self._starting is None:
                self._sky.prepare(self._offers())
                self._starting = self._pool.submit(self._sky.start)
            if record.address is None:
                raise MachineGone(f"The machine {record.instance_name} was never reached")
            raise_if_gone(self._provider, record, self._clock, job_id=self._job.id)
            self._log_in(record.address, lambda _: None, limit_s=0.0)
        assert self._run is not None
        return self._run

    def _unreachable(self, error: Unreachable) -> None:
        """Borne for as long as the machine is paid for, and said to a person."""
        record = self._file.current()
        if self._clock.now() > record.at(record.on_host_s):
            raise error
        _log(str(error))
        command = f"launch status {self._job.id} --watch"
        self._write.set_attention(Attention(code="unreachable", costing=True, command=command, message=error.what))
        self._clock.sleep(LOOK_S)

    def sync(self, say: Say) -> None:
        while True:
            try:
                run = self._running()
            except Unreachable as error:
                self._unreachable(error)
                say(PhaseProgress(name="waiting for the machine's network", done=0, unit="s"))
            else:
                self._write.clear_attention("unreachable")
                run.sync(say)
                return

    def submit(self, command: Command) -> None:
        self._command = command
        if self._run is not None:
            self._run.submit(command)

    def poll(self, timeout_s: float) -> int | None:
        if self._run is None:
            try:
                self._running().submit(self._command)
            except Unreachable as error:
                self._unreachable(error)
                return self._stopped
            self._write.clear_attention("unreachable")
        assert self._run is not None
        return self._run.poll(timeout_s)

    def stop(self, grace_s: float) -> None:
        if self._run is not None:
            self._run.stop(grace_s)
        else:
            self._stopped = -9  # nobody can be asked

    def collect(self) -> None:
        record = self._file.read()
        if record is not None and record.create_called_at is not None and not record.create_refused:
            self._running().collect()

    def time_left_s(self) -> float | None:
        record = self._file.read()
        if record is None or record.create_called_at is None:
            return None
        kept_s = record.reserve_s - (record.evaluation_s if self._command == "evaluate" else 0.0)
        return (record.at(record.on_host_s - kept_s) - self._clock.now()).total_seconds()

    def held_until(self) -> datetime | None:
        record = self._file.read()
        if record is None or record.create_called_at is None or record.gone_at is not None:
            return None
        return self._run.held_until() if self._run is not None else record.at(record.on_host_s)

    # ---- the end ----

    def billed(self) -> tuple[datetime, datetime] | None:
        """Nothing was charged where no machine was ever seen active; for one that was, at least the minimum."""
        record, now = self._file.read(), self._clock.now()
        if record is None or record.active_at is None:
            at = (record.create_called_at if record else None) or now
            return at, at
        least = record.active_at + timedelta(seconds=self._provider.cloud.minimum_s)
        return record.active_at, max(record.gone_at or now, least)

    def destroy(self) -> None:
        """Ends what has the attempt's name, and looks until the list agrees."""
        record = self._file.read()
        if record is not None and record.may_be_there:
            gone_at = end(self._provider, record, self._clock, self._meter, job_id=self._job.id)
            self._file.change(gone_at=gone_at)
            try:
                self._sky.forget(record.cluster)
            except LaunchError as error:  # a record of SkyPilot's ends nothing and costs nothing
                _log(str(error))
        self.leave()

    def leave(self) -> None:
        """The machine goes on, to its own deadline at the latest; a later driver takes it over."""
        if self._shell is not None:
            self._shell.close()
        self._pool.shutdown(wait=True)
        self._sky.close()


def _log(line: str) -> None:
    print(line, flush=True)
