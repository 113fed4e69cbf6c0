"""What the exporter asks of a database with very many series, and what a scrape of it takes.

    python benchmarks/exporter.py --series 1000000 --out DIR [--db postgresql | --db postgresql://...]

Fills a database with one archive: of a hundred series 90 are segmented, 3 failed, 1 crashed, 1 is refused, 2 are left
out by a rule and 3 pending; three quarters of the findings are of a run that finished, the others of one in progress.
Files are left out, which the exporter does not look at. `--db postgresql` starts a PostgreSQL from the wheel that the
tests use. Prints seconds that five looks took, counting series apart from the rest, and milliseconds that fifty scrapes
took, a second apart, of an exporter that goes on looking.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from index import database_url
from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    MetaData,
    String,
    Table,
    case,
    cast,
    func,
    insert,
    literal,
    select,
)

from vaeseg.canonical import digest
from vaeseg.db.archives import add_archive
from vaeseg.db.runs import ModelRow, finish_run, register_model, start_run
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.tables import Base, ExclusionTable, FindingTable, SeriesTable, WorkItemTable
from vaeseg.db.watch import take_snapshot
from vaeseg.distributed.lifecycle import heartbeats
from vaeseg.exporter.server import serve
from vaeseg.exporter.watcher import Watcher
from vaeseg.rules.parsing import parse_rules

RULES = {"min_slices": 20}
MODEL, CONFIG, FINGERPRINT = "a" * 64, "c" * 64, "f" * 64
LOOKS, SCRAPES, PORT = 5, 50, 9187
NOW = datetime.now(UTC)

NUMBERS = Table("numbers", MetaData(), Column("i", Integer, primary_key=True), prefixes=["TEMPORARY"])
NUMBER: ColumnElement[int] = NUMBERS.c.i
HUNDREDTH = NUMBER % 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--db", help="instead of SQLite in DIR; it should be empty")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    with database_url(arguments.db) as given:
        url = given or sqlite_url(arguments.out / "results.db")
        with closing(open_database(url)) as database:
            measure(database, arguments.series)


def measure(database: Database, n_series: int) -> None:
    started = time.perf_counter()
    run_id = fill(database, n_series)
    seconds = time.perf_counter() - started
    print(f"{database.engine.dialect.name}: {n_series} series in {seconds:.0f} s", flush=True)
    with heartbeats(database, run_id, lambda: None):
        time_looks(database)
        time_scrapes(database)


def fill(database: Database, n_series: int) -> str:
    """An archive, two runs, and what came of the series; returns the run in progress."""
    archive = add_archive(database, "ward", "/archive/ward")
    register_model(database, ModelRow(digest=MODEL, name="phantom-v1"))
    before, current = (started_run(database, archive.id) for _ in range(2))
    with database.write() as connection:
        NUMBERS.create(connection)
        for first in range(1, n_series + 1, 100_000):
            last = min(first + 100_000, n_series + 1)
            connection.execute(insert(NUMBERS), [{"i": i} for i in range(first, last)])
        for table, values, which in rows(archive.id, before, current, n_series):
            columns = [value.label(name) for name, value in values.items()]
            connection.execute(insert(table).from_select(list(values), select(*columns).where(which)))
    finish_run(database, before, "finished")
    if database.engine.dialect.name == "postgresql":
        with database.write() as connection:
            connection.exec_driver_sql("ANALYZE")  # autovacuum does it within a minute
    return current


def started_run(database: Database, archive_id: int) -> str:
    config_json = '{"rules": {"min_slices": 20}}'
    return start_run(
        database,
        kind="segment",
        archive_id=archive_id,
        model_digest=MODEL,
        config_json=config_json,
        config_digest=CONFIG,
    )


def rows(
    archive_id: int, before: str, current: str, n_series: int
) -> Sequence[tuple[type[Base], dict[str, ColumnElement[Any]], ColumnElement[bool]]]:
    """Table, columns and which numbers, in the order in which they refer to one another."""
    is_refused, state = HUNDREDTH == 99, outcome()
    run_id = case((n_series * 3 // 4 >= NUMBER, before), else_=current)
    series = {
        **constants(SeriesTable, archive_id=archive_id, modality="CT", warnings=[], n_instances=100, n_files=100),
        **constants(SeriesTable, n_slices=100, fingerprint=FINGERPRINT, first_seen_at=NOW, judged_at=NOW),
        "id": NUMBER,
        "series_key": uid("1.2.3."),
        "series_instance_uid": uid("1.2.3."),
        "study_instance_uid": uid("1.2.4."),
        "group_key": uid("1.2.4."),
        "subject_key": func.substr(uid("0123456789abcdef0123456789"), 1, 32),
        "verdict": case((is_refused, "refused"), else_="readable"),
        "reason": case((is_refused, "missing_slices"), else_=None),
    }
    exclusions = {
        **constants(
            ExclusionTable, rules_digest=digest(parse_rules(RULES)), fingerprint=FINGERPRINT, rule="min_slices"
        ),
        **constants(ExclusionTable, detail="12 slices", run_id=before, created_at=NOW),
        "series_id": NUMBER,
    }
    work = {
        **constants(WorkItemTable, fingerprint=FINGERPRINT, model_digest=MODEL, config_digest=CONFIG, attempts=1),
        **constants(WorkItemTable, generation=1, updated_at=NOW - timedelta(hours=1)),
        "id": NUMBER,
        "series_id": NUMBER,
        "state": state,
        "run_id": run_id,
    }
    is_segmented = state == "segmented"
    findings = {
        **constants(FindingTable, model="phantom-v1", model_digest=MODEL, fingerprint=FINGERPRINT, warnings=[]),
        **constants(FindingTable, part="part-000000.parquet", created_at=NOW),
        "id": NUMBER,
        "work_item_id": NUMBER,
        "series_id": NUMBER,
        "run_id": run_id,
        "series_instance_uid": uid("1.2.3."),
        "study_instance_uid": uid("1.2.4."),
        "outcome": state,
        "reason": case((is_segmented, None), else_="decode_failed"),
        "n_slices": case((is_segmented, 100), else_=None),
        "tumour_volume_ml": case((is_segmented, cast(NUMBER % 50, FindingTable.tumour_volume_ml.type)), else_=None),
    }
    return (
        (SeriesTable, series, NUMBER > 0),
        (ExclusionTable, exclusions, HUNDREDTH.in_((97, 98))),
        (WorkItemTable, work, HUNDREDTH < 97),
        (FindingTable, findings, HUNDREDTH < 94),
    )


def outcome() -> ColumnElement[str]:
    return case(
        (HUNDREDTH < 90, "segmented"), (HUNDREDTH < 93, "failed"), (HUNDREDTH == 93, "crashed"), else_="pending"
    )


def constants(table: type[Base], **values: Any) -> dict[str, ColumnElement[Any]]:
    return {name: literal(value, getattr(table, name).type) for name, value in values.items()}


def uid(prefix: str) -> ColumnElement[str]:
    return literal(prefix, String) + cast(NUMBER, String)


def time_looks(database: Database) -> None:
    """The first reads from the disk what the others find in memory."""
    processor = time.process_time()
    looks = [take_snapshot(database, 10.0) for _ in range(LOOKS)]
    processor = (time.process_time() - processor) / LOOKS
    took = {"series": [look.counts.seconds for look in looks], "rest": [look.seconds for look in looks]}
    for name, seconds in took.items():
        print(f"look, {name:6} median {statistics.median(seconds):6.2f} s, max {max(seconds):6.2f} s", flush=True)
    print(f"of the processor {processor:.2f} s a look in this process, PostgreSQL's not counted", flush=True)
    print(dict(looks[-1].counts.series[0].by_category), looks[-1].in_progress[0].progress, flush=True)


def time_scrapes(database: Database) -> None:
    """Of a server in this process."""
    is_over = threading.Event()
    watcher = Watcher(database, 10.0, 5.0, print)
    server = threading.Thread(target=serve, args=(watcher, "127.0.0.1", PORT, is_over.is_set, print))
    server.start()
    watcher.has_looked.wait()
    milliseconds = [1000 * scrape() for _ in range(SCRAPES)]
    is_over.set()
    server.join()
    print(f"scrape, median {statistics.median(milliseconds):.1f} ms, max {max(milliseconds):.1f} ms", flush=True)


def scrape() -> float:
    time.sleep(1)
    started = time.perf_counter()
    with urlopen(f"http://127.0.0.1:{PORT}/metrics") as answer:
        answer.read()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
