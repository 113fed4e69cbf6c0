"""Runs that end early leave their coverage, once they know what there is to cover."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import write_series
from ledger_factories import DIGEST, MODEL
from sqlalchemy import select

from vaeseg.canonical import as_json
from vaeseg.config import RunConfig
from vaeseg.db.archives import ensure_archive
from vaeseg.db.coverage import Coverage
from vaeseg.db.runs import ModelRow, register_model, start_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import run_summary
from vaeseg.db.tables import RunCoverageTable
from vaeseg.distributed import indexing, runs
from vaeseg.distributed.lifecycle import RunInterruptedError
from vaeseg.distributed.runs import execute_index, execute_run
from vaeseg.errors import RunNotFoundError, StoreError
from vaeseg.io.store import Store


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    write_series(tmp_path / "ward" / "a")
    (tmp_path / "ward" / "notes.txt").write_text("junk")
    return tmp_path / "ward"


def test_portions_grow_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked anew for each, and all that there is goes through one of them."""
    cores = iter([2, 8, 100, 100, 100])
    monkeypatch.setattr(runs, "cores_at_hand", lambda: next(cores))
    portions = list(runs._portions(range(3400)))
    assert [len(portion) for portion in portions] == [500, 800, 2000, 100]
    assert [item for portion in portions for item in portion] == list(range(3400))


def begin(database: Database, ward: Path, kind: str = "segment", config: RunConfig | None = None) -> str:
    register_model(database, ModelRow(digest=DIGEST, name=MODEL))
    return start_run(
        database,
        kind=kind,
        archive_id=ensure_archive(database, str(ward)),
        model_digest=DIGEST if kind == "segment" else None,
        config_json=as_json(config or RunConfig(model_path="")),
        config_digest="c" * 64,
    )


def coverage(database: Database, run_id: str) -> list[tuple[str, str, int, int]]:
    columns = RunCoverageTable.__table__.columns
    with database.read() as connection:
        rows = connection.execute(select(RunCoverageTable.__table__).where(columns.run_id == run_id))
        return sorted((row.category, row.reason, row.n_series, row.n_files) for row in rows)


FOUND = [("pending", "", 1, 6), ("refused", "not_an_image", 0, 1)]


@pytest.fixture
def beating(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the heart beat when coverage was counted, which takes longer than a silence may where there is much."""
    really_count, beating = runs.count_coverage, list[bool]()

    def count(*arguments: Any) -> Coverage:
        beating.append("heartbeat" in {thread.name for thread in threading.enumerate()})
        return really_count(*arguments)

    monkeypatch.setattr(runs, "count_coverage", count)
    return beating


def test_an_index_run_leaves_its_coverage(database: Database, store: Store, ward: Path, beating: list[bool]) -> None:
    """Everything readable is pending: no model was asked."""
    run_id = begin(database, ward, kind="index")
    execute_index(database, store, run_id)
    assert coverage(database, run_id) == FOUND
    assert beating == [True]


def test_files_of_a_directory_that_cannot_be_listed_are_accounted_for(
    database: Database, store: Store, ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six slices that nobody could look at, the directory itself, and the junk beside it."""
    execute_index(database, store, begin(database, ward, kind="index"))
    really_scan = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return really_scan(path)

    monkeypatch.setattr("vaeseg.io.listing.os.scandir", closed)
    run_id = begin(database, ward, kind="index")
    execute_index(database, store, run_id)
    files = run_summary(database, run_id).files
    assert files is not None
    assert (files.found, files.in_series, files.refused, files.unaccounted) == (8, 6, 2, 0)


def test_a_file_that_is_lost_between_scan_and_index_is_noticed(
    database: Database, store: Store, ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan's own count says so, which asks no index."""
    really_record = indexing.record_files

    def forgetful(database: Database, archive_id: int, version: int, read: Any = (), **others: Any) -> None:
        really_record(database, archive_id, version, read[1:], **others)

    monkeypatch.setattr(indexing, "record_files", forgetful)
    run_id = begin(database, ward, kind="index")
    execute_index(database, store, run_id)
    files = run_summary(database, run_id).files
    assert files is not None
    assert (files.found, files.unaccounted) == (7, 1)


@pytest.mark.parametrize("error", [RunInterruptedError("interrupted by SIGTERM"), StoreError("the disk is full")])
def test_a_run_that_stops_after_its_scan_leaves_its_coverage(
    database: Database,
    store: Store,
    ward: Path,
    monkeypatch: pytest.MonkeyPatch,
    beating: list[bool],
    error: Exception,
) -> None:
    """With the files of its scan, which are known by then."""

    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(runs, "plan_work", stop)
    run_id = begin(database, ward)
    with pytest.raises(type(error)):
        execute_run(database, store, run_id)
    assert coverage(database, run_id) == FOUND
    assert beating == [True]
    summary = run_summary(database, run_id)
    assert summary.status in ("interrupted", "failed")
    assert summary.files is not None
    assert (summary.files.found, summary.files.in_series) == (7, 6)


@pytest.mark.parametrize("failure", [StoreError("the database is away"), RunNotFoundError("no such run")])
def test_what_stopped_a_run_is_told_where_nothing_can_be_counted(
    database: Database, store: Store, ward: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """And not that counting failed."""

    def fails(error: Exception) -> Callable[..., None]:
        def raising(*_: object, **__: object) -> None:
            raise error

        return raising

    monkeypatch.setattr(runs, "plan_work", fails(RunInterruptedError("interrupted by SIGTERM")))
    monkeypatch.setattr(runs, "count_coverage", fails(failure))
    run_id = begin(database, ward)
    with pytest.raises(RunInterruptedError, match="SIGTERM"):
        execute_run(database, store, run_id)
    assert (coverage(database, run_id), run_summary(database, run_id).status) == ([], "interrupted")


def test_a_run_whose_scan_failed_knows_nothing(database: Database, store: Store, ward: Path) -> None:
    """A share that is not mounted: what lies there is not known, and nothing is counted."""
    shutil.rmtree(ward)
    run_id = begin(database, ward)
    with pytest.raises(StoreError, match="cannot list"):
        execute_run(database, store, run_id)
    assert (coverage(database, run_id), run_summary(database, run_id).files) == ([], None)


def test_a_run_whose_rules_are_not_known_fails_before_its_scan(database: Database, store: Store, ward: Path) -> None:
    """Written down by a newer version."""
    run_id = begin(database, ward, config=RunConfig(model_path="", rules={"future": 1}))
    with pytest.raises(StoreError, match="unknown key 'future'"):
        execute_run(database, store, run_id)
    assert run_summary(database, run_id).status == "failed"


def test_the_next_portion_is_planned_while_one_is_in_work(
    database: Database, store: Store, ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody would wait for the driver; each series is in one portion."""
    write_series(ward / "b", SeriesInstanceUID="1.2.7", StudyInstanceUID="1.2.6")
    asked: list[str] = []
    seen: list[tuple[str, bool]] = []
    next_is_planned = threading.Event()
    really_made = runs.manifests_of

    def made(database: Database, job: Any, keys: list[str]) -> dict[str, Any]:
        asked.extend(keys)
        if len(asked) == 2:
            next_is_planned.set()
        return really_made(database, job, keys)

    def in_work(_run: Any, _committer: Any, portion: list[Any]) -> None:
        seen.extend((item.series_key, next_is_planned.wait(timeout=30)) for item, _ in portion)

    monkeypatch.setattr(runs, "series_at_once", lambda _: 1)
    monkeypatch.setattr(runs, "MANIFESTS_AT_ONCE", 1)
    monkeypatch.setattr(runs, "manifests_of", made)
    monkeypatch.setattr(runs, "_segment", in_work)
    report = execute_run(database, store, begin(database, ward))
    assert seen == [(key, True) for key in asked]
    assert report.outcomes["pending"] == len(seen) == 2
