"""Coverage: at the end of a run every series and every file that is there is in one category."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from file_counts import count_files
from ledger_factories import (
    begin_run,
    counted_statements,
    failed,
    files_of,
    group_of,
    scan,
    segmented,
    series_row,
    skipped,
)
from sqlalchemy import event, select

from vaeseg.db.coverage import Scanned, count_coverage
from vaeseg.db.drivers import heartbeat
from vaeseg.db.exclusions import record_decisions, standings
from vaeseg.db.index_files import record_files
from vaeseg.db.index_series import SeriesRow, forget_emptied_groups
from vaeseg.db.runs import EndStatus, finish_run, start_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import run_summary
from vaeseg.db.tables import RunCoverageTable
from vaeseg.db.views import COVERAGE_OF_RUNS
from vaeseg.db.work import WorkItem, plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store
from vaeseg.records import IndexedFile, SeriesOutcome
from vaeseg.rules.series_rules import Exclusion

RULES = "7" * 64
MODEL = ("a" * 64, "c" * 64)
"""Digests of model and configuration that `begin_run` has."""
Rows = dict[tuple[str, str], tuple[int, int]]
"""Category and reason to series and files."""


def coverage(database: Database, run_id: str) -> Rows:
    with database.read() as connection:
        rows = connection.execute(select(RunCoverageTable.__table__).where(RunCoverageTable.run_id == run_id))
        return {(row.category, row.reason): (row.n_series, row.n_files) for row in rows}


def end_run(database: Database, run_id: str, status: EndStatus, scanned: Scanned) -> None:
    finish_run(database, run_id, status, coverage=count_coverage(database, run_id, scanned))


def exclude(database: Database, archive_id: int, run_id: str, keys: set[str], digest: str = RULES) -> None:
    """Say of some series that rules leave them out."""
    found = [one for one in standings(database, archive_id, *MODEL, digest) if one.series_key in keys]
    why = {one.series_key: Exclusion(rule="chest", detail="no chest") for one in found}
    record_decisions(database, run_id, digest, found, why)


@dataclass(frozen=True)
class Case:
    """What happens to a series, and where it is to be counted."""

    name: str
    category: str
    reason: str = ""
    refused_for: str | None = None
    outcomes: tuple[str, ...] = ()
    """Of one run after the other."""
    is_excluded: bool = False
    is_planned: bool = False
    changes: bool = False
    vanishes: bool = False


CASES = (
    Case("segmented", "segmented", outcomes=("segmented",)),
    Case("segmented before the rules", "segmented", outcomes=("segmented",), is_excluded=True),
    Case("skipped", "left_out_by_rule", "min_slices", outcomes=("skipped",)),
    Case("excluded", "left_out_by_rule", "chest", is_excluded=True),
    Case("excluded after a failure", "left_out_by_rule", "chest", outcomes=("failed",), is_excluded=True),
    Case("excluded before it changed", "pending", is_excluded=True, changes=True),
    Case("failed", "failed", "decode_failed", outcomes=("failed",)),
    Case("crashed after a failure", "crashed", "decoder_crashed", outcomes=("failed", "crashed")),
    Case("planned", "pending", is_planned=True),
    Case("new", "pending"),
    Case("segmented before it changed", "pending", outcomes=("segmented",), changes=True),
    Case("refused", "refused", "missing_slices", refused_for="missing_slices"),
    Case("gone", "", outcomes=("segmented",), vanishes=True),
)


def outcome(item: WorkItem, name: str) -> SeriesOutcome:
    match name:
        case "segmented":
            return segmented(item)
        case "skipped":
            return skipped(item)
    return failed(item, crashed=name == "crashed")


def commit(database: Database, store: Store, archive_id: int, wanted: dict[str, str]) -> None:
    """A run that ends series so."""
    run_id = begin_run(database, archive_id)
    items = plan_work(database, run_id, list(wanted), retry=True).pending
    commit_group(run_id, [(item, outcome(item, wanted[item.series_key])) for item in items], store, database)


@pytest.mark.parametrize("seed", [1, 2])
def test_series_and_files_always_add_up(database: Database, store: Store, seed: int) -> None:
    """An archive of every case in random numbers: each is counted where it belongs, and nothing twice or not at all."""
    draw = random.Random(seed)
    cases = [case for case in CASES for _ in range(draw.randint(1, 4))]
    draw.shuffle(cases)
    series: list[tuple[Case, SeriesRow]] = [
        (case, series_row(f"1.2.{n}", study_instance_uid=f"1.{n}", n_files=draw.randint(1, 3), reason=case.refused_for))
        for n, case in enumerate(cases)
    ]
    n_junk = draw.randint(0, 3)
    archive_id = scan(database, [row for _, row in series], junk=n_junk)
    for attempt in range(2):
        wanted = {r.series_key: case.outcomes[attempt] for case, r in series if len(case.outcomes) > attempt}
        commit(database, store, archive_id, wanted)
    other = begin_run(database, archive_id)
    exclude(database, archive_id, other, {r.series_key for case, r in series if case.is_excluded})
    exclude(database, archive_id, other, {r.series_key for case, r in series if case.name == "new"}, "8" * 64)
    scan(database, [replace(r, fingerprint="0" * 64) for case, r in series if case.changes])
    gone = [file.path for case, r in series if case.vanishes for file in files_of(r)]
    record_files(database, archive_id, 1, vanished=gone)
    forget_emptied_groups(database, archive_id)
    plan_work(database, begin_run(database, archive_id), [r.series_key for case, r in series if case.is_planned])

    run_id = begin_run(database, archive_id)
    n_files = sum(r.n_files for case, r in series if not case.vanishes) + n_junk + 5
    end_run(database, run_id, "finished", Scanned(n_files=n_files, n_waiting=5, rules_digest=RULES))

    expected: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for case, r in series:
        if not case.vanishes:
            expected[case.category, case.reason].update(n_series=1, n_files=r.n_files)
    expected["waiting", ""].update(n_files=5)
    expected["refused", "not_an_image"].update(n_files=n_junk)
    found = {key: (count["n_series"], count["n_files"]) for key, count in expected.items() if count.total()}
    assert coverage(database, run_id) == found
    files = run_summary(database, run_id).files
    assert files == count_files(database, archive_id, 5)
    assert files is not None
    assert files.found == sum(n_files for _, n_files in found.values())


def test_a_night_that_does_not_add_up_says_so(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Four files found, three in the index: its row, the view and the log have both numbers."""
    run_id = begin_run(database, scan(database, [series_row("1.2.1")]))
    end_run(database, run_id, "finished", Scanned(n_files=4))
    files = run_summary(database, run_id).files
    assert files is not None
    assert (files.found, files.in_series, files.unaccounted) == (4, 3, 1)
    with database.read() as connection:
        (night,) = connection.execute(select(COVERAGE_OF_RUNS)).mappings()
    assert (night["files_found"], night["files_pending"]) == (4, 3)
    assert f"run {run_id}: its scan found 4 files, and 3 are accounted for" in caplog.text
    caplog.clear()
    end_run(database, run_id, "finished", Scanned(n_files=3))
    assert caplog.text == ""


def test_a_study_that_arrives_waits_with_what_makes_no_volume_yet(database: Database) -> None:
    """Its readable series are pending; refused series of other studies are refused; as files are counted everywhere."""
    arriving = {"study_instance_uid": "1.5", "n_files": 2}
    rows = [
        series_row("1.2.1", **arriving),
        series_row("1.2.2", **arriving, reason="missing_slices"),
        series_row("1.2.3", reason="missing_slices"),
    ]
    archive_id = scan(database, rows)
    run_id = begin_run(database, archive_id)
    end_run(database, run_id, "nothing_to_do", Scanned(n_files=8, n_waiting=1, waiting_studies={"1.5"}))
    assert coverage(database, run_id) == {
        ("pending", ""): (1, 2),
        ("refused", "missing_slices"): (1, 3),
        ("waiting", ""): (1, 3),
    }
    assert run_summary(database, run_id).files == count_files(database, archive_id, 1, {"1.5"})


def test_an_index_run_knows_what_is_pending_and_what_is_not_judged(database: Database, store: Store) -> None:
    """Without a model nothing is decided, whatever other runs did; files that are not judged yet are pending."""
    archive_id = scan(database, [series_row("1.2.1"), series_row("1.2.2", reason="localizer")])
    commit(database, store, archive_id, {"1.2.1": "segmented"})
    late = IndexedFile(path="late.dcm", size=1, mtime_ns=1, group_key=group_of(series_row("1.2.9")), header="[]")
    record_files(database, archive_id, 1, [late])
    run_id = start_run(
        database, kind="index", archive_id=archive_id, model_digest=None, config_json="{}", config_digest="c" * 64
    )
    end_run(database, run_id, "finished", Scanned(n_files=7))
    assert coverage(database, run_id) == {("pending", ""): (1, 4), ("refused", "localizer"): (1, 3)}


def test_a_second_attempt_replaces_the_coverage_of_the_first(database: Database, store: Store) -> None:
    """An interrupted run has one, and the same run resumed to its end has its own."""
    archive_id = scan(database, [series_row("1.2.1")])
    run_id = begin_run(database, archive_id)
    end_run(database, run_id, "interrupted", Scanned(n_files=3))
    assert coverage(database, run_id) == {("pending", ""): (1, 3)}
    (item,) = plan_work(database, run_id, ["1.2.1"]).pending
    commit_group(run_id, [(item, segmented(item))], store, database)
    finish_run(database, run_id, "failed")
    assert coverage(database, run_id) == {("pending", ""): (1, 3)}
    end_run(database, run_id, "finished", Scanned(n_files=3))
    assert coverage(database, run_id) == {("segmented", ""): (1, 3)}


def test_coverage_takes_a_few_statements_however_many_series(database: Database) -> None:
    """And nothing of a series passes through the driver."""
    archive_id = scan(database, [series_row(f"1.2.{n}", study_instance_uid=f"1.{n}", n_files=1) for n in range(1500)])
    run_id = begin_run(database, archive_id)
    with counted_statements(database) as statements:
        end_run(database, run_id, "finished", Scanned(n_files=1500))
    assert len(statements) < 12
    assert coverage(database, run_id) == {("pending", ""): (1500, 1500)}


def test_a_run_says_that_it_lives_while_its_coverage_is_counted(database: Database) -> None:
    """Before each statement of it: nothing that a heartbeat needs is held until all is counted."""
    run_id = begin_run(database, scan(database, [series_row("1.2.1")]))
    beats: list[bool] = []

    def beat(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "count(*)" in statement:
            beats.append(pool.submit(heartbeat, database, run_id).result(timeout=10))

    event.listen(database.engine, "before_cursor_execute", beat)
    with ThreadPoolExecutor() as pool:
        end_run(database, run_id, "finished", Scanned(n_files=3))
    assert beats == [False, False]
    assert coverage(database, run_id) == {("pending", ""): (1, 3)}
