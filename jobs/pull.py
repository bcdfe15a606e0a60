"""Results come home: from the job's work folder to `runs/JOB/`, each verified, the manifest last."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

from artifacts import acceptance, manifest, swap
from artifacts.bill import cost_document
from artifacts.errors import LaunchError, NotWhole, UsageProblem
from jobs.driver_lock import alive
from jobs.home import Home
from jobs.job import Job, Outcome, State
from jobs.plan_document import plan_document
from jobs.store import Store
from jobs.verdict import said_by_end
from jobs.work import has_result, newest_checkpoint, read_end, write_document

# Names in the work folder, in the order in which they come; `checkpoint` and `logs` are found elsewhere.
FROM_WORK = ("run.json", "data.json", "end.json", "adapter", "adapter_last", "metrics.jsonl", "eval.json")
WRITTEN_AT_PLANNING = ("requirement.json", "plan.json")
IN_MANIFEST = (*WRITTEN_AT_PLANNING, "task.yaml", *FROM_WORK, "checkpoint", "logs")


def pull(home: Home, store: Store, job: Job) -> Path:
    """Brings home all that the job's work folder holds, then the report; safe to repeat. Returns `runs/JOB`.

    A job that failed because its results could not come home ends here as its trainer's end says.

    Raises:
        LaunchError: a full or unwritable disk, or an artifact that is not whole. The work folder stays as it is.
    """
    bring_results(home, job)
    if job.state is State.DONE:
        if job.outcome is Outcome.FAILED:
            earned = said_by_end(read_end(home.work(job.id)), kept=has_result(home.work(job.id)))
            if earned is not None:
                store.settle(job.id, earned)
        write_account(store, store.job(job.id))
    return job.spec.results


def bring_results(home: Home, job: Job) -> None:
    """The artifacts and `manifest.json`; raises as `pull` does."""
    results, work = job.spec.results, home.work(job.id)
    again = f"launch pull {job.id}"
    if not work.is_dir():
        raise UsageProblem(f"The working folder of {job.id} is not on this machine: {work}", next_step="launch status")
    try:
        results.mkdir(parents=True, exist_ok=True)
        swap.reconcile(results)
        _write_if_missing(results, job)
        for name in FROM_WORK:
            _bring(work / name, results / name)
        checkpoint = newest_checkpoint(work)
        if checkpoint is not None:
            _bring(checkpoint, results / "checkpoint")
        _bring(home.logs(job.id), results / "logs")
        if not (work / "eval.json").exists():
            # Of an earlier attempt: it judged another adapter than the one that stands here now.
            (results / "eval.json").unlink(missing_ok=True)
        manifest.write(results, manifest.make(results, [name for name in IN_MANIFEST if (results / name).exists()]))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise LaunchError(
            f"The results of {job.id} could not be brought to {results}: "
            + ("the disk is full" if full else (error.strerror or str(error))),
            why=f"they are kept in {work}",
            next_step=f"{'make room' if full else 'make the folder writable'}, then: {again}",
        ) from error
    except NotWhole as error:
        what = f"The results of {job.id} are not whole: {error.what}"
        raise LaunchError(what, why=f"{error.why}; all is kept in {work}", next_step=again) from error


def write_account(store: Store, job: Job) -> None:
    """`cost.json` and `report.html`, outside the manifest."""
    from jobs.report import write_report

    rows = store.ledger(job.id)
    write_document(job.spec.results / "cost.json", json.dumps(cost_document(rows), indent=2))
    write_report(job, job.spec.results, ledger=rows, moves=store.moves(job.id))


def results_are_whole(results: Path) -> bool:
    """Whether `runs/JOB/` matches its manifest."""
    try:
        known = manifest.read(results)
    except NotWhole:
        return False
    return known is not None and not manifest.differences(results, known)


def check_removable(home: Home, job: Job) -> None:
    """Nothing but a done job whose results are at home may be removed.

    Raises:
        UsageProblem: it is not done, or what it made is not whole at home.
    """
    if job.state is not State.DONE or alive(home, job.id):
        raise UsageProblem(f"{job.id} is not done ({job.state})", next_step=f"launch cancel {job.id}")
    if has_result(home.work(job.id)) and not results_are_whole(job.spec.results):
        raise UsageProblem(
            f"The results of {job.id} are not whole in {job.spec.results}, and its working folder has them",
            next_step=f"launch pull {job.id}, then launch rm {job.id}",
        )


def remove(home: Home, store: Store, job: Job) -> None:
    """Forgets a job and deletes its working folder. Results stay, and so does its row in the ledger.

    Raises as `check_removable` does.
    """
    check_removable(home, job)
    store.remove(job.id)
    if home.job(job.id).exists():
        shutil.rmtree(home.job(job.id))


def _bring(source: Path, final: Path) -> None:
    """One artifact, if there is one and it is not home already."""
    if not source.exists():
        return
    acceptance.accept(source)
    whole = manifest.make(source)
    if final.exists() and manifest.make(final) == whole:
        return
    swap.bring_home(source, final, lambda copy: manifest.verify(copy, whole))


def _write_if_missing(results: Path, job: Job) -> None:
    documents = {
        "requirement.json": job.spec.requirement.model_dump(mode="json", by_alias=True),
        "plan.json": plan_document(job.spec.plan),
    }
    for name, document in documents.items():
        if not (results / name).exists():
            text = json.dumps(document, indent=2, ensure_ascii=False)
            (results / name).write_text(text + "\n", encoding="utf-8")
