"""The ledger of work: what a run has to do, so that nothing is lost and nothing is done twice.

The work key is (series, fingerprint, model, configuration). An item that was segmented or skipped is done for good; one
that failed or crashed waits until it is asked for, unless what it failed for may have passed (`records.TRANSIENT`); one
left pending by a run that was killed is planned again. What is not done again is current again: files or options that
are as they were once have the finding of then, whatever was found in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, update

from vaeseg.db.events import add_event
from vaeseg.db.present_series import last_reason
from vaeseg.db.session import Database
from vaeseg.db.tables import FindingTable, ModelTable, RunTable, SeriesTable, WorkItemTable
from vaeseg.db.upsert import in_batches, upsert
from vaeseg.errors import RunNotFoundError
from vaeseg.records import TRANSIENT, SeriesRef

DONE = frozenset({"segmented", "skipped"})
LEFT_OUT = frozenset({"failed", "crashed"})
WORK_KEY = ("series_id", "fingerprint", "model_digest", "config_digest")


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A series that a run has to do."""

    work_item_id: int
    series_id: int
    series_key: str
    series_instance_uid: str
    study_instance_uid: str
    subject_key: str | None
    fingerprint: str
    n_slices: int | None
    attempts: int
    """This one included."""
    generation: int
    """1 for a series and model name without earlier findings; it chooses the mask folder (`mask_folder`), so that an
    older finding's mask is never overwritten."""

    @property
    def ref(self) -> SeriesRef:
        """The identifiers that travel."""
        return SeriesRef(
            series_instance_uid=self.series_instance_uid,
            study_instance_uid=self.study_instance_uid,
            subject_key=self.subject_key,
        )


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """What a run has to do, and what it has not."""

    pending: tuple[WorkItem, ...]
    """In the order of the series given."""
    already_done: tuple[str, ...]
    """Series keys."""
    left_out: tuple[str, ...]
    """Series keys that failed or crashed before and were not asked for again."""


@dataclass(frozen=True, kw_only=True)
class WorkPreview:
    """What `plan_work` would plan: numbers of series."""

    pending: int
    already_done: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What a run brings to the work key."""

    run_id: str
    archive_id: int
    model: str
    """Name."""
    model_digest: str
    config_digest: str


def mask_folder(model: str, generation: int) -> str:
    """Name of the folder for a model's mask of a series: ``<model>``, then ``<model>~2`` and so on."""
    return model if generation == 1 else f"{model}~{generation}"


def plan_work(
    database: Database, run_id: str, series_keys: Sequence[str], *, retry: bool = False, limit: int | None = None
) -> PlannedWork:
    """Decide what a run has to do and enter it in the ledger, some at a time, so that others can write in between.

    Whoever is killed meanwhile leaves pending items, which the next run enters as its own.

    Args:
        database: where.
        run_id: a run with an archive and a model.
        series_keys: readable series of its archive, of `index_series.readable_series`, in order of work.
        retry: do again what failed or crashed.
        limit: plan at most this many; the rest stays for another run.

    Raises:
        RunNotFoundError: no such run.
        ValueError: a key is not a readable series of the archive.
    """
    keys = list(dict.fromkeys(series_keys))
    with database.read() as connection:
        run = _run_key(connection, run_id)
        rows = _ledger_rows(connection, run.archive_id, run.model_digest, run.config_digest, keys)
    _check_readable(keys, rows)
    wanted, done, left_out = _sort([rows[key] for key in keys], retry)
    for batch in in_batches([*done, *left_out]):
        _make_current(database, run, batch)
    for batch in in_batches(wanted[:limit]):
        with database.write() as connection:
            _enter(connection, database, run, batch)
    chosen = [row.series_key for row in wanted[:limit]]
    with database.read() as connection:
        entered = _ledger_rows(connection, run.archive_id, run.model_digest, run.config_digest, chosen)
    return PlannedWork(
        pending=tuple(_work_item(entered[key]) for key in chosen),
        already_done=tuple(row.series_key for row in done),
        left_out=tuple(row.series_key for row in left_out),
    )


def preview_work(
    database: Database,
    archive_id: int,
    model_digest: str,
    config_digest: str,
    series: Mapping[str, str],
    *,
    retry: bool = False,
) -> WorkPreview:
    """What `plan_work` would plan for the series found just now, without writing anything.

    Args:
        database: where.
        archive_id: their archive.
        model_digest: of a model that need not be registered.
        config_digest: of the configuration.
        series: series key to fingerprint as found now, readable ones only.
        retry: as for `plan_work`.
    """
    with database.read() as connection:
        states = _states(connection, archive_id, model_digest, config_digest, list(series))
    found = [states.get((key, fingerprint), "pending") for key, fingerprint in series.items()]
    done, failed = sum(state in DONE for state in found), sum(state in LEFT_OUT for state in found)
    left_out = 0 if retry else failed
    return WorkPreview(pending=len(found) - done - left_out, already_done=done, left_out=left_out)


def run_key(database: Database, run_id: str) -> RunKey:
    """What a run brings to the work key.

    Raises:
        RunNotFoundError: no such run, or one that has no archive or no model.
    """
    with database.read() as connection:
        return _run_key(connection, run_id)


def _run_key(connection: Connection, run_id: str) -> RunKey:
    columns = (RunTable.archive_id, ModelTable.name.label("model"), RunTable.model_digest, RunTable.config_digest)
    row = connection.execute(
        select(*columns)
        .join(ModelTable, ModelTable.digest == RunTable.model_digest)
        .where(RunTable.id == run_id, RunTable.archive_id.is_not(None))
    ).one_or_none()
    if row is None:
        raise RunNotFoundError(f"no run {run_id} with an archive and a model")
    return RunKey(run_id=run_id, **row._mapping)


class _LedgerRow(NamedTuple):
    """A series, and its item under the present work key; the item's columns are None where there is none."""

    series_id: int
    series_key: str
    series_instance_uid: str
    study_instance_uid: str
    subject_key: str | None
    verdict: str
    fingerprint: str
    n_slices: int | None
    work_item_id: int | None = None
    state: str | None = None
    attempts: int | None = None
    generation: int | None = None


SERIES_COLUMNS = (
    SeriesTable.id,
    SeriesTable.series_key,
    SeriesTable.series_instance_uid,
    SeriesTable.study_instance_uid,
    SeriesTable.subject_key,
    SeriesTable.verdict,
    SeriesTable.fingerprint,
    SeriesTable.n_slices,
)
ITEM_COLUMNS = (WorkItemTable.id, WorkItemTable.state, WorkItemTable.attempts, WorkItemTable.generation)


def _ledger_rows(
    connection: Connection, archive_id: int, model_digest: str, config_digest: str, keys: Sequence[str]
) -> dict[str, _LedgerRow]:
    """Series key to row.

    No join: PostgreSQL has no statistics of items that were entered just now, and compares each series with each item.
    """
    of_archive = select(*SERIES_COLUMNS).where(SeriesTable.archive_id == archive_id)
    of_run = select(WorkItemTable.series_id, WorkItemTable.fingerprint, *ITEM_COLUMNS).where(
        WorkItemTable.model_digest == model_digest, WorkItemTable.config_digest == config_digest
    )
    rows: dict[str, _LedgerRow] = {}
    passed = _failures_that_pass(connection, model_digest, config_digest)
    for batch in in_batches(keys):
        series = [_LedgerRow(*row) for row in connection.execute(of_archive.where(SeriesTable.series_key.in_(batch)))]
        found = connection.execute(of_run.where(WorkItemTable.series_id.in_([row.series_id for row in series])))
        items: dict[tuple[int, str], dict[str, Any]] = {
            (series_id, fingerprint): {
                "work_item_id": item_id,
                "state": "pending" if item_id in passed else state,
                "attempts": attempts,
                "generation": generation,
            }
            for series_id, fingerprint, item_id, state, attempts, generation in found
        }
        rows |= {row.series_key: row._replace(**items.get((row.series_id, row.fingerprint), {})) for row in series}
    return rows


def _states(
    connection: Connection, archive_id: int, model_digest: str, config_digest: str, keys: Sequence[str]
) -> dict[tuple[str, str], str]:
    """State by series key and fingerprint, for one model and configuration."""
    statement = (
        select(SeriesTable.series_key, WorkItemTable.fingerprint, WorkItemTable.id, WorkItemTable.state)
        .join(SeriesTable, SeriesTable.id == WorkItemTable.series_id)
        .where(SeriesTable.archive_id == archive_id)
        .where(WorkItemTable.model_digest == model_digest, WorkItemTable.config_digest == config_digest)
    )
    states: dict[tuple[str, str], str] = {}
    passed = _failures_that_pass(connection, model_digest, config_digest)
    for batch in in_batches(keys):
        found = connection.execute(statement.where(SeriesTable.series_key.in_(batch)))
        states |= {
            (key, fingerprint): "pending" if item_id in passed else state for key, fingerprint, item_id, state in found
        }
    return states


def _failures_that_pass(connection: Connection, model_digest: str, config_digest: str) -> set[int]:
    """Items that failed for a reason that may be gone by the next run, which tries them again unasked."""
    failed = (
        select(WorkItemTable.id)
        .where(WorkItemTable.model_digest == model_digest, WorkItemTable.config_digest == config_digest)
        .where(WorkItemTable.state == "failed", last_reason().in_(TRANSIENT))
    )
    return set(connection.scalars(failed))


def _check_readable(keys: Sequence[str], rows: Mapping[str, Any]) -> None:
    for key in keys:
        if key not in rows or rows[key].verdict != "readable":
            raise ValueError(f"series {key} is not a readable series of this archive")


def _sort(rows: Sequence[Any], retry: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Wanted, done, left out."""
    done = [row for row in rows if row.state in DONE]
    left_out = [] if retry else [row for row in rows if row.state in LEFT_OUT]
    wanted = [row for row in rows if row.state not in DONE and (retry or row.state not in LEFT_OUT)]
    return wanted, done, left_out


def _make_current(database: Database, run: RunKey, rows: Sequence[_LedgerRow]) -> None:
    """Put the findings of items that are not done again in the place of others that came later; `rows`: a batch.

    One that failed takes no place of one of the same files, under another configuration (`findings.record_group`).
    """
    of_model = FindingTable.model == run.model
    is_current = of_model & FindingTable.superseded_at.is_(None)
    by_series = {row.series_id: row for row in rows}
    columns = (FindingTable.series_id, FindingTable.id, FindingTable.work_item_id, FindingTable.fingerprint)
    with database.read() as connection:
        later = {
            by_series[series_id].work_item_id: finding_id
            for series_id, finding_id, item_id, fingerprint in connection.execute(
                select(*columns).where(FindingTable.series_id.in_(by_series), is_current)
            )
            if item_id != by_series[series_id].work_item_id
            and (by_series[series_id].state in DONE or fingerprint != by_series[series_id].fingerprint)
        }
        own = connection.execute(
            select(FindingTable.work_item_id, func.max(FindingTable.id))
            .where(FindingTable.work_item_id.in_(later), of_model)
            .group_by(FindingTable.work_item_id)
        )
        newest: dict[int, int] = dict(own.all())
    if not newest:
        return
    with database.write() as connection:
        replaced = FindingTable.id.in_([later[item_id] for item_id in newest])
        connection.execute(update(FindingTable).where(replaced).values(superseded_at=database.now()))
        again = FindingTable.id.in_(newest.values())
        connection.execute(update(FindingTable).where(again).values(superseded_at=None))
        add_event(connection, database, "findings_current_again", run.run_id, n_rows=len(newest))


def _enter(connection: Connection, database: Database, run: RunKey, rows: Sequence[Any]) -> None:
    """`rows`: a batch."""
    now = database.now()
    generations = _generations(connection, run.model, [row.series_id for row in rows])
    elsewhere = _generations_elsewhere(connection, run, [row.series_key for row in rows])
    items = [
        {
            "series_id": row.series_id,
            "fingerprint": row.fingerprint,
            "model_digest": run.model_digest,
            "config_digest": run.config_digest,
            "state": "pending",
            "run_id": run.run_id,
            "attempts": (row.attempts or 0) + 1,
            "generation": _generation(row, generations.get(row.series_id, {}), elsewhere),
            "updated_at": now,
        }
        for row in rows
    ]
    upsert(connection, WorkItemTable, items, key=WORK_KEY)


def _generations(connection: Connection, model: str, series_ids: Sequence[int]) -> dict[int, dict[int, int]]:
    """Series to item to generation, of items that have a finding under this model name."""
    found = connection.execute(
        select(WorkItemTable.series_id, WorkItemTable.id, WorkItemTable.generation)
        .join(FindingTable, FindingTable.work_item_id == WorkItemTable.id)
        .where(FindingTable.model == model, FindingTable.series_id.in_(series_ids))
        .distinct()
    )
    generations: dict[int, dict[int, int]] = {}
    for series_id, item_id, generation in found:
        generations.setdefault(series_id, {})[item_id] = generation
    return generations


def _generations_elsewhere(connection: Connection, run: RunKey, keys: Sequence[str]) -> dict[tuple[str, str], int]:
    """Study UID and series key to the latest generation of items of other archives, whose masks lie in the same place.

    The same series may lie in two archives of a store, or in two that overlap; items count that have no finding yet.
    """
    found = connection.execute(
        select(SeriesTable.study_instance_uid, SeriesTable.series_key, func.max(WorkItemTable.generation))
        .join(SeriesTable, SeriesTable.id == WorkItemTable.series_id)
        .join(ModelTable, ModelTable.digest == WorkItemTable.model_digest)
        .where(SeriesTable.series_key.in_(keys), SeriesTable.archive_id != run.archive_id)
        .where(ModelTable.name == run.model)
        .group_by(SeriesTable.study_instance_uid, SeriesTable.series_key)
    )
    return {(study, key): generation for study, key, generation in found}


def _generation(row: Any, with_findings: Mapping[int, int], elsewhere: Mapping[tuple[str, str], int]) -> int:
    """Its own again where it has a finding already, else one that nothing has whose masks lie in the same place."""
    if row.work_item_id in with_findings:
        return with_findings[row.work_item_id]
    return 1 + max([*with_findings.values(), elsewhere.get((row.study_instance_uid, row.series_key), 0)])


def _work_item(row: Any) -> WorkItem:
    return WorkItem(
        work_item_id=row.work_item_id,
        series_id=row.series_id,
        series_key=row.series_key,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        subject_key=row.subject_key,
        fingerprint=row.fingerprint,
        n_slices=row.n_slices,
        attempts=row.attempts,
        generation=row.generation,
    )
