"""`vaeseg-batch schedule`: scans that the scheduler starts by itself."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import json_option, opened_for_query, store_options
from vaeseg.cli.scan import command as scan
from vaeseg.cli.scan import scan_submission
from vaeseg.cli.scan_arguments import given_options, options_of_scan

if TYPE_CHECKING:
    from vaeseg.db.schedules import Schedule
    from vaeseg.db.session import Database
    from vaeseg.paths import AnyPath


@click.group()
def command() -> None:
    """Plan scans of archives, which `vaeseg-batch scheduler` starts."""


@command.command()
@click.argument("name")
@click.option("--archive", "archive_name", required=True, metavar="NAME", help="What is scanned: see `archive add`.")
@click.option("--cron", required=True, help='Minute, hour, day of month, month, day of week: "0 1 * * *" is at 01:00.')
@click.option("--window", metavar="HH:MM-HH:MM", help="Scans begin, and take up new series, only between these times.")
@click.option("--timezone", default="UTC", show_default=True, help="Of --cron and --window, such as Europe/Berlin.")
@store_options
@options_of_scan(scan, without=("plan_until",))
@click.pass_context
def add(
    ctx: click.Context,
    /,
    name: str,
    archive_name: str,
    cron: str,
    window: str | None,
    timezone: str,
    store: AnyPath,
    db: str | None,
    **_scan: Any,
) -> None:
    """Plan a scan of an archive; the other options are those of `scan`.

    A planned time that was missed is caught up once. One outside the window waits until it opens; at its end no new
    series is begun, and the next scan goes on.
    """
    from vaeseg.db.archives import archive_named
    from vaeseg.db.schedules import add_schedule
    from vaeseg.timetable import Timetable

    timetable = Timetable(cron=cron, timezone=timezone, window=window)
    options = given_options(ctx)
    with opened_for_query(store, db) as database:
        archive = archive_named(database, archive_name)
        model = _checked_model(archive_name, store, db, options)
        if "--model" in options and Path(options["--model"]).resolve() == model:
            options["--model"] = str(model)  # a file: found from any directory
        schedule = add_schedule(database, name, archive, timetable, options)
        print(f"schedule {name}: next {_next_start(schedule, database)}, if 'vaeseg-batch scheduler' runs")


@command.command("list")
@json_option
@store_options
def list_all(as_json: bool, store: AnyPath, db: str | None) -> None:
    """List schedules: when each is next due, in its own time zone and in UTC, and what became of its last run."""
    from vaeseg.db.schedules import list_schedules

    with opened_for_query(store, db) as database:
        rows = [_row(schedule, database) for schedule in list_schedules(database)]
    if as_json:
        print(json.dumps(rows))
    else:
        _print_table(rows)


@command.command()
@click.argument("name")
@store_options
def remove(name: str, store: AnyPath, db: str | None) -> None:
    """Plan a scan no longer; one that runs goes on, and all findings stay."""
    from vaeseg.db.schedules import remove_schedule

    with opened_for_query(store, db) as database:
        remove_schedule(database, name)
    print(f"schedule {name} is removed")


@command.command("run-now")
@click.argument("name")
@json_option
@store_options
@click.pass_context
def run_now(ctx: click.Context, /, name: str, as_json: bool, store: AnyPath, db: str | None) -> None:
    """Scan at once and here, with the options of a schedule; its window and its planned times do not matter.

    Exit codes: those of `scan`.
    """
    from vaeseg.db.schedules import record_run, schedule_named
    from vaeseg.process import this_process

    with opened_for_query(store, db) as database:
        schedule = schedule_named(database, name)
        arguments = [*schedule.arguments, *_where(store, db), *["--json"] * as_json]
        try:
            with scan.make_context("scan", arguments, parent=ctx) as scan_context:
                scan.invoke(scan_context)
        finally:
            record_run(database, schedule.id, this_process())


def _checked_model(archive_name: str, store: AnyPath, db: str | None, options: dict[str, Any]) -> Path:
    """Have the scan itself look at its options, now rather than at night; returns the file of its model.

    Raises:
        UsageError: no such model, or what else is wrong with one of them.
    """
    from vaeseg.db.schedules import scan_arguments

    with scan.make_context("scan", [archive_name, *scan_arguments(options), *_where(store, db)]) as context:
        asked = {key: value for key, value in context.params.items() if key not in ("index_only", "dry_run", "as_json")}
        return Path(scan_submission(**asked).config.model_path)


def _where(store: AnyPath, db: str | None) -> list[str]:
    return [f"--store={store}", *([f"--db={db}"] if db else [])]


def _next_start(schedule: Schedule, database: Database) -> str:
    start = schedule.timetable.next_start(schedule.handled_until, database.now())
    return f"{schedule.timetable.local(start):%Y-%m-%d %H:%M} {schedule.timezone}, {start:%Y-%m-%d %H:%M} UTC"


def _row(schedule: Schedule, database: Database) -> dict[str, Any]:
    from vaeseg.db.summaries import run_summary

    last = run_summary(database, schedule.last_run_id) if schedule.last_run_id else None
    table, start = schedule.timetable, None
    if not schedule.is_archive_removed:
        start = table.next_start(schedule.handled_until, database.now())
    return {
        "name": schedule.name,
        "archive": schedule.archive,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "window": schedule.window,
        "options": schedule.options,
        "next_local": _iso(start and table.local(start)),
        "next_utc": _iso(start),
        "last_run_id": schedule.last_run_id,
        "last_status": last and last.status,
        "last_pending": last and last.pending,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no schedules yet", file=sys.stderr)
    for row in rows:
        window = f" in {row['window']}" if row["window"] else ""
        print(f"{row['name']}  archive {row['archive']}, {row['cron']}{window} {row['timezone']}")
        next_start = f"{row['next_local']} = {row['next_utc']}" if row["next_utc"] else "-, its archive is removed"
        print(f"  next  {next_start}")
        print(f"  last  {row['last_run_id']} {row['last_status']}" if row["last_run_id"] else "  last  -")
