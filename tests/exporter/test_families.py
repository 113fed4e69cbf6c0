"""What Prometheus is told, as text."""

from __future__ import annotations

import math
import re
import threading
from contextlib import closing

import pytest
from ledger_factories import ROOT, Clock, begin_run, failed, scan, segmented, series_row
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import vaeseg
from vaeseg.db.archives import add_archive, remove_archive
from vaeseg.db.drivers import take_archive
from vaeseg.db.runs import finish_run
from vaeseg.db.schedules import add_schedule
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.exporter import watcher as watcher_module
from vaeseg.exporter.families import exporter_registry
from vaeseg.exporter.watcher import PAUSE_FACTOR, Watcher
from vaeseg.io.store import Store
from vaeseg.telemetry import LEDGER_METRICS
from vaeseg.timetable import Timetable

ALWAYS = {
    "vaeseg_database_up",
    "vaeseg_collection_duration_seconds",
    "vaeseg_collection_finished_timestamp_seconds",
    "vaeseg_build_info",
    "vaeseg_findings_large_threshold_ml",
}
"""What is there without a database."""


@pytest.fixture
def database_url(store: Store) -> str:
    """SQLite alone: `tests/db/test_watch.py` looks at both."""
    return sqlite_url(store.database_path)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watcher(database: Database, said: list[str]) -> Watcher:
    return Watcher(database, 10.0, 5.0, said.append)


def scraped(watcher: Watcher) -> dict[str, float]:
    """Each sample of the text that Prometheus gets, as it is written, to its value."""
    text = generate_latest(exporter_registry(watcher)).decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples


def names(samples: dict[str, float]) -> set[str]:
    return {name.partition("{")[0] for name in samples}


@pytest.fixture
def busy(database: Database, store: Store, clock: Clock) -> Database:
    """A ledger in which everything that can be shown is: a run that ended, one in progress, a schedule that was due."""
    ward = add_archive(database, "ward", ROOT)
    add_schedule(database, "nightly", ward, Timetable(cron="0 1 * * *", window="00:00-06:00"), {})
    clock.advance(86400)
    keys = ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    scan(database, [series_row(key) for key in keys])
    ended = begin_run(database, ward.id)
    one, two = plan_work(database, ended, keys[:2]).pending
    commit_group(ended, [(one, segmented(one, volume_ml=30.0)), (two, failed(two))], store, database)
    finish_run(database, ended, "finished")
    clock.advance(10)
    running = begin_run(database, ward.id)
    take_archive(database, ward.id, running)
    items = plan_work(database, running, keys).pending
    clock.advance(10)
    commit_group(running, [(items[0], segmented(items[0]))], store, database)
    return database


def test_a_scrape_tells_all_there_is(busy: Database, watcher: Watcher, clock: Clock) -> None:
    """Every metric, with the labels it says it has, in numbers that can be counted by hand."""
    watcher.look()
    samples = scraped(watcher)
    assert names(samples) == {metric.name for metric in LEDGER_METRICS}
    now = clock.moment.timestamp()
    run, archive = "{archive=ward,kind=segment}", "{archive=ward}"
    nightly = "{archive=ward,schedule=nightly}"
    expected = {
        "vaeseg_database_up": 1,
        "vaeseg_collection_finished_timestamp_seconds": now,
        f"vaeseg_build_info{{version={vaeseg.__version__}}}": 1,
        "vaeseg_findings_large_threshold_ml": 10,
        "vaeseg_series_current{archive=ward,category=segmented}": 2,
        "vaeseg_series_current{archive=ward,category=failed}": 1,
        "vaeseg_series_current{archive=ward,category=pending}": 1,
        "vaeseg_series_current{archive=ward,category=refused}": 0,
        "vaeseg_series_unmeasured{archive=ward,category=failed,reason=decode_failed}": 1,
        f"vaeseg_backlog_series{archive}": 1,
        f"vaeseg_backlog_oldest_age_seconds{archive}": 20,
        f"vaeseg_findings_large{archive}": 1,
        "vaeseg_runs_active{archive=ward,kind=segment,status=running}": 1,
        "vaeseg_runs_active{archive=ward,kind=segment,status=lost}": 0,
        f"vaeseg_run_series_done{run}": 1,
        f"vaeseg_run_series_planned{run}": 2,
        f"vaeseg_run_series_failed{run}": 0,
        f"vaeseg_run_slices_segmented{run}": 3,
        f"vaeseg_run_progress_ratio{run}": 0.5,
        f"vaeseg_run_eta_seconds{run}": 10,
        f"vaeseg_run_last_finished_timestamp_seconds{run}": now - 20,
        f"vaeseg_run_last_duration_seconds{run}": 0,
        "vaeseg_run_last_series{archive=ward,kind=segment,outcome=segmented}": 1,
        "vaeseg_run_last_series{archive=ward,kind=segment,outcome=crashed}": 0,
        f"vaeseg_run_last_failed_ratio{run}": 0.5,
        f"vaeseg_schedule_due_timestamp_seconds{nightly}": now - 20 - 1800,
        f"vaeseg_schedule_window_end_timestamp_seconds{nightly}": now - 20 + 4.5 * 3600,
        f"vaeseg_schedule_running{nightly}": 0,
        f"vaeseg_lease_held{archive}": 1,
        f"vaeseg_lease_heartbeat_age_seconds{archive}": 10,
    }
    assert {name: samples[name] for name in expected} == expected
    assert math.isnan(samples[f"vaeseg_schedule_started_timestamp_seconds{nightly}"])
    assert math.isnan(samples[f"vaeseg_schedule_last_success_timestamp_seconds{nightly}"])
    assert samples["vaeseg_collection_duration_seconds"] > 0


def test_what_is_unknown_is_nan_and_what_is_not_there_is_absent(database: Database, watcher: Watcher) -> None:
    """An archive that was never scanned has no backlog that could be old, no run, and no run before."""
    add_archive(database, "ward", ROOT)
    watcher.look()
    samples = scraped(watcher)
    assert math.isnan(samples["vaeseg_backlog_oldest_age_seconds{archive=ward}"])
    assert math.isnan(samples["vaeseg_lease_heartbeat_age_seconds{archive=ward}"])
    assert samples["vaeseg_backlog_series{archive=ward}"] == samples["vaeseg_lease_held{archive=ward}"] == 0
    assert not any("vaeseg_run_" in name or "vaeseg_schedule_" in name for name in samples)


def test_names_and_labels_follow_the_rules() -> None:
    """One name once; labels are of the closed list, none of which is a UID, a path or a run."""
    listed = [metric.name for metric in LEDGER_METRICS]
    assert len(set(listed)) == len(listed)
    assert all(re.fullmatch(r"vaeseg(_[a-z]+){2,5}", name) for name in listed)
    labels = {label for metric in LEDGER_METRICS for label in metric.labels}
    assert labels == {"archive", "category", "kind", "outcome", "reason", "schedule", "status", "version"}


def test_a_removed_archive_leaves_the_next_scrape(busy: Database, watcher: Watcher, clock: Clock) -> None:
    """Nothing of it is left over from a scrape before, nor of its run that was lost."""
    watcher.look()
    clock.advance(61)
    remove_archive(busy, "ward")
    watcher.look()
    assert names(scraped(watcher)) == ALWAYS


def test_without_a_database_the_numbers_are_absent(
    busy: Database, watcher: Watcher, store: Store, said: list[str]
) -> None:
    """Not stale; said once when it goes and once when it is back, whatever file it is by then."""
    watcher.look()
    complete = names(scraped(watcher))
    elsewhere = store.root / "elsewhere.db"
    busy.close()
    store.database_path.rename(elsewhere)
    for _ in range(2):
        watcher.look()
    samples = scraped(watcher)
    assert (names(samples), samples["vaeseg_database_up"]) == (ALWAYS, 0)
    assert len(said) == 1
    assert said[0].startswith("exporter: no database at ")
    open_database(sqlite_url(store.database_path)).close()
    watcher.look()
    assert scraped(watcher)["vaeseg_database_up"] == 1
    assert names(scraped(watcher)) == ALWAYS
    assert said[1:] == ["exporter: the database is back"]
    store.database_path.unlink()
    elsewhere.rename(store.database_path)
    watcher.look()
    assert names(scraped(watcher)) == complete


def test_nothing_ends_the_watcher(watcher: Watcher, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody thought of costs one look; its message, which could hold anything, is not shown."""

    def fail(*_: object) -> None:
        raise KeyError("DOE^JANE")

    with monkeypatch.context() as patch:
        patch.setattr(watcher_module, "take_snapshot", fail)
        watcher.look()
    assert said == ["exporter: a look failed: KeyError; looks again every 5 s"]
    watcher.look()
    assert scraped(watcher)["vaeseg_database_up"] == 1


def test_a_look_that_hangs_is_not_taken_for_a_database_that_works(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen before it is shown until it is overdue, and no longer."""
    watcher.look()
    moments = iter([0.0, 100.0, 200.0])
    late = watcher._late_at
    monkeypatch.setattr(watcher_module.time, "monotonic", lambda: late - 150.0 + next(moments))
    assert [scraped(watcher)["vaeseg_database_up"] for _ in range(3)] == [1, 1, 0]


def test_what_takes_long_is_done_seldom(busy: Database, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Series are counted again only after a pause of many times what counting took; runs are looked at every time."""
    taken: list[bool] = []

    def slow(database: Database, threshold: float, counts: object) -> object:
        taken.append(counts is None)
        snapshot = really(database, threshold, counts)  # type: ignore[arg-type]
        object.__setattr__(snapshot.counts, "seconds", 3.0)
        return snapshot

    really = watcher_module.take_snapshot
    moment = [0.0]
    monkeypatch.setattr(watcher_module, "take_snapshot", slow)
    monkeypatch.setattr(watcher_module.time, "monotonic", lambda: moment[0])
    for _ in range(26):
        pause = watcher.look()
        assert 5.0 <= pause < 3.0 * PAUSE_FACTOR
        moment[0] += 5.0
    assert [n * 5.0 for n, is_new in enumerate(taken) if is_new] == [0.0, 60.0, 120.0]


def test_it_looks_until_it_is_told_to_stop(database: Database, said: list[str]) -> None:
    """In a thread, again and again."""
    stopped = threading.Event()
    watcher = Watcher(database, 10.0, 0.01, said.append)
    thread = threading.Thread(target=watcher.watch, args=(stopped,))
    thread.start()
    try:
        assert watcher.has_looked.wait(30)
        before = watcher.seen.snapshot
        for _ in range(3000):
            if watcher.seen.snapshot is not before:
                break
            stopped.wait(0.01)
        assert watcher.seen.snapshot is not before
    finally:
        stopped.set()
        thread.join(30)
    assert not thread.is_alive()


def test_the_text_names_nobody(busy: Database, watcher: Watcher) -> None:
    """The archive's root names a patient; series, runs and subjects have ids: none is in a scrape."""
    watcher.look()
    text = generate_latest(exporter_registry(watcher)).decode()
    with closing(busy), busy.read() as connection:
        (run_id,) = connection.exec_driver_sql("SELECT id FROM runs LIMIT 1").one()
    for private in ("Doe", ROOT, "1.2.1", run_id, "5" * 16):
        assert private not in text
