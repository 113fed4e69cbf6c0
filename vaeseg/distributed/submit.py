"""From the options of a submission to a run in the database, and its execution here or on a cluster."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace

import ray

from vaeseg.canonical import as_json, digest
from vaeseg.config import RunConfig
from vaeseg.db.archives import ensure_archive, find_archive, overlapping
from vaeseg.db.drivers import close_lost_runs
from vaeseg.db.index_files import known_directories
from vaeseg.db.migrate import check_revision, is_empty
from vaeseg.db.runs import ModelRow, register_model, reopen_run, run_task, start_run
from vaeseg.db.session import Database, open_database, sqlite_url, unmigrated_database
from vaeseg.db.work import preview_work
from vaeseg.distributed.commit import recover_parts
from vaeseg.distributed.indexing import ALL_IS_GONE, is_young
from vaeseg.distributed.local import RayChatter, is_jobs_address, join_cluster, stop_local_ray
from vaeseg.distributed.report import ProgressCallback, RunReport, no_progress
from vaeseg.distributed.rules import left_out_of_scan
from vaeseg.distributed.runs import execute_index, execute_run
from vaeseg.distributed.selection import skip_by_rule
from vaeseg.distributed.sources import check_labels, not_entered
from vaeseg.errors import StoreError, UsageError
from vaeseg.io.archive import ArchiveScan, scan_archive
from vaeseg.io.store import Store, create_store
from vaeseg.models.description import Description, describe
from vaeseg.models.files import resolve_model
from vaeseg.paths import AnyPath
from vaeseg.records import FileCount

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What the user asked for, checked."""

    study_dir: AnyPath
    store_root: AnyPath
    database_url: str | None
    """None: SQLite in the store."""
    model: str
    """Its name in findings."""
    config: RunConfig
    address: str | None = None
    """Of the Ray cluster that does the work; ``http://...`` to submit it as a job; None: a Ray of its own here."""
    wait: bool = True
    """For the end of a job."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run would do: numbers of series."""

    to_segment: int
    to_skip: int
    left_out_by_rule: dict[str, int]
    """By the name of the rule, of the rules of `--select`."""
    already_done: int
    left_out: int
    refused: int
    waiting: int
    """Of studies with files that changed lately."""
    files: FileCount


def submit(submission: Submission, on_progress: ProgressCallback = no_progress) -> RunReport:
    """Write the run down, then execute it: driven by this process, or by a job of the cluster at an http address.

    Raises:
        VaesegError: the store, the database, the model or the cluster cannot be used, or the run was interrupted.
    """
    model = describe(resolve_model(submission.config.model_path))
    _check_segmenter(model, submission.model)
    store = create_store(submission.store_root)
    database = open_database(submission.database_url or sqlite_url(store.database_path))
    with closing(database), _executor(submission.address, submission.wait) as execute:
        close_lost_runs(database)
        return execute(store, database, write_down(submission, model, database), on_progress)


def resume(
    store: Store,
    database: Database,
    run_id: str,
    on_progress: ProgressCallback = no_progress,
    address: str | None = None,
    wait: bool = True,
) -> RunReport:
    """Go on with a run that did not finish, under its id and with its configuration, but until the work is done.

    Raises:
        UsageError: it is running, has finished, or segmented nothing.
        VaesegError: as `submit`.
    """
    close_lost_runs(database)
    if run_task(database, run_id).model_digest is None:
        raise UsageError(f"run {run_id} only brought an index up to date: scan again")
    with _executor(address, wait) as execute:
        reopen_run(database, run_id, {"plan_until": None, "jobs_address": _jobs_address(address)})
        return execute(store, database, run_id, on_progress)


def retry(
    store: Store,
    database: Database,
    run_id: str,
    outcomes: tuple[str, ...] = ("failed", "crashed"),
    on_progress: ProgressCallback = no_progress,
    address: str | None = None,
    wait: bool = True,
) -> RunReport:
    """Do again, in a new run of the same configuration, what a run ended with some outcomes.

    Raises:
        VaesegError: as `submit`.
    """
    task = run_task(database, run_id)
    if task.model_digest is None:
        raise UsageError(f"run {run_id} segmented nothing")
    config = replace(
        RunConfig.from_json(task.config),
        retry=True,
        retry_of=run_id,
        retry_outcomes=outcomes,
        plan_until=None,
        jobs_address=_jobs_address(address),
    )
    close_lost_runs(database)
    with _executor(address, wait) as execute:
        new_id = start_run(
            database,
            kind="segment",
            archive_id=task.archive_id,
            model_digest=task.model_digest,
            config_json=as_json(config),
            config_digest=digest(config.segmentation),
        )
        return execute(store, database, new_id, on_progress)


Execute = Callable[[Store, Database, str, ProgressCallback], RunReport]
"""Executes a run that is written down."""


@contextmanager
def _executor(address: str | None, wait: bool) -> Iterator[Execute]:
    """Who executes runs; a cluster is reached before one is written down.

    Raises:
        ClusterError: it cannot be.
    """
    if (jobs_address := _jobs_address(address)) is not None:
        from vaeseg.distributed.jobs import segmented_by_job
        from vaeseg.distributed.jobs_api import JobsApi

        cluster = JobsApi(jobs_address)
        yield lambda _, database, run_id, on_progress: segmented_by_job(cluster, database, run_id, wait, on_progress)
        return
    with _on_ray(address):
        yield _execute_here


def _execute_here(store: Store, database: Database, run_id: str, on_progress: ProgressCallback) -> RunReport:
    recover_parts(store, database)
    return execute_run(database, store, run_id, on_progress)


def _jobs_address(address: str | None) -> str | None:
    return address if is_jobs_address(address) else None


@contextmanager
def _on_ray(address: str | None) -> Iterator[None]:
    """A cluster is joined at once; a Ray on this machine is started by whoever needs it first, and ends here.

    One that this process has already is used, and kept.
    """
    ray_is_ours = not ray.is_initialized()
    with redirect_stdout(RayChatter()):
        if address is not None:
            join_cluster(address)
        yield
        if ray_is_ours:
            stop_local_ray()  # after a failure, threads may be in it still: it ends with the process


def index_only(submission: Submission) -> dict[str, int]:
    """Bring the index of an archive up to date, as a run of its own.

    Returns:
        `IndexReport.counts`; nothing for a job that is not waited for.

    Raises:
        VaesegError: the store, the database or the archive cannot be used, or the run was interrupted.
    """
    store = create_store(submission.store_root)
    database = open_database(submission.database_url or sqlite_url(store.database_path))
    jobs_address = _jobs_address(submission.address)
    with closing(database):
        close_lost_runs(database)
        if jobs_address is not None:
            from vaeseg.distributed.jobs import indexed_by_job
            from vaeseg.distributed.jobs_api import JobsApi

            cluster = JobsApi(jobs_address)
            return indexed_by_job(cluster, database, _write_down_index(submission, database), submission.wait)
        with _on_ray(submission.address):
            return execute_index(database, store, _write_down_index(submission, database))


def _write_down_index(submission: Submission, database: Database) -> str:
    return start_run(
        database,
        kind="index",
        archive_id=ensure_archive(database, str(submission.study_dir)),
        model_digest=None,
        config_json=as_json(_config(submission)),
        config_digest=digest(submission.config.segmentation),
    )


def _config(submission: Submission) -> RunConfig:
    return replace(submission.config, jobs_address=_jobs_address(submission.address))


def preview(submission: Submission) -> Preview:
    """What `submit` would do; writes nothing, not even a store.

    Raises:
        VaesegError: as `submit`.
    """
    model = describe(resolve_model(submission.config.model_path))
    _check_segmenter(model, submission.model)
    ledger_url = _ledger_url(submission)
    config = submission.config
    check_labels(config)
    exclude = not_entered(submission.store_root, config)
    try:
        scan = scan_archive(submission.study_dir, config.segmentation.reading, exclude=exclude)
    except OSError as error:
        raise StoreError(f"cannot list the study directory: {error.strerror}") from error
    if not scan.files and _is_indexed(ledger_url, submission):
        raise StoreError(ALL_IS_GONE)
    series = [verdict for verdict in scan.verdicts if verdict.ref is not None]
    arriving = _arriving_studies(scan, config.stable_seconds)
    there = [verdict for verdict in series if verdict.ref and verdict.ref.study_instance_uid not in arriving]
    manifests = {v.series_key: v.manifest for v in there if v.manifest is not None}
    prints = {v.series_key: v.fingerprint for v in there if v.manifest is not None}
    rule_of = left_out_of_scan(scan.root, manifests, config)
    others = {key: manifest for key, manifest in manifests.items() if key not in rule_of}
    to_skip = {k: prints[k] for k, m in others.items() if skip_by_rule(m, config.segmentation.selection)}
    to_segment = {key: prints[key] for key in others if key not in to_skip}
    by_rule = {rule: {k: prints[k] for k, r in rule_of.items() if r == rule} for rule in sorted({*rule_of.values()})}
    parts = (to_skip, to_segment, *by_rule.values())
    skipped, segmented, *ruled_out = (_known_work(ledger_url, submission, model, part) for part in parts)
    known = sum(ruled_out, skipped + segmented)
    return Preview(
        to_segment=len(to_segment) - segmented.total(),
        to_skip=len(to_skip) - skipped.total(),
        left_out_by_rule={
            rule: len(part) - done.total() for (rule, part), done in zip(by_rule.items(), ruled_out, strict=True)
        },
        already_done=known["already_done"],
        left_out=known["left_out"],
        refused=sum(not verdict.readable for verdict in there),
        waiting=len(series) - len(there),
        files=scan.file_count,
    )


def _is_indexed(ledger_url: str | None, submission: Submission) -> bool:
    """Whether the ledger knows of files in the archive."""
    if ledger_url is None:
        return False
    with closing(unmigrated_database(ledger_url, create=False)) as database:
        archive_id = find_archive(database, str(submission.study_dir))
        return archive_id is not None and bool(known_directories(database, archive_id))


def _arriving_studies(scan: ArchiveScan, stable_seconds: float) -> set[str]:
    """Those that a run leaves to the next one."""
    now = time.time()
    young = {file.path for file in scan.files if is_young(file, now, stable_seconds)}
    return {
        verdict.ref.study_instance_uid
        for verdict in scan.verdicts
        if verdict.ref is not None and any(file.path in young for file in verdict.files)
    }


def write_down(submission: Submission, model: Description, database: Database) -> str:
    """Record the run with all that whoever executes it needs; its id is all that need travel. Returns the id."""
    metadata = model.metadata
    register_model(
        database,
        ModelRow(
            digest=model.digest,
            name=submission.model,
            architecture=asdict(model.architecture),
            preprocessing=asdict(model.preprocessing),
            metrics=dict(metadata.metrics),
        ),
    )
    root = str(submission.study_dir)
    if others := overlapping(database, root):
        logger.warning(
            "what is given here overlaps with archive %s: a series that lies in both has a finding in each",
            ", ".join(others),
        )
    return start_run(
        database,
        kind="segment",
        archive_id=ensure_archive(database, root),
        model_digest=model.digest,
        config_json=as_json(_config(submission)),
        config_digest=digest(submission.config.segmentation),
    )


def _ledger_url(submission: Submission) -> str | None:
    """Of the ledger, which is left at its revision; None where there is none, or nothing in it yet.

    Raises:
        StoreError: it is at another revision than this code's, or holds something else.
    """
    store = Store(submission.store_root.absolute())
    if submission.database_url is None and not store.database_path.is_file():
        return None
    url = submission.database_url or sqlite_url(store.database_path)
    with closing(unmigrated_database(url, create=False)) as database, database.read() as connection:
        if is_empty(connection):
            return None
        check_revision(connection)
    return url


def _known_work(
    ledger_url: str | None, submission: Submission, model: Description, fingerprints: dict[str, str]
) -> Counter[str]:
    """How much of it the ledger has already."""
    if ledger_url is None:
        return Counter()
    with closing(unmigrated_database(ledger_url, create=False)) as database:
        archive_id = find_archive(database, str(submission.study_dir))
        if archive_id is None:
            return Counter()
        config_digest = digest(submission.config.segmentation)
        known = preview_work(
            database, archive_id, model.digest, config_digest, fingerprints, retry=submission.config.retry
        )
    return Counter(already_done=known.already_done, left_out=known.left_out)


def _check_segmenter(model: Description, name: str) -> None:
    if model.kind != "segmenter":
        raise UsageError(f"model {name} is a stage-one autoencoder, which finds no tumours: train a decoder on it")
