"""`vaeseg-batch findings`: the results, largest tumours first if you like."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.columns import Column, print_columns, tells_apart
from vaeseg.cli.options import NOTICE, check_choice, opened_for_query, store_options
from vaeseg.cli.output import chosen_format, output_options, write_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from vaeseg.db.findings import ListedFinding
    from vaeseg.paths import AnyPath

COLUMNS = (
    "run_id",
    "series_instance_uid",
    "study_instance_uid",
    "subject_key",
    "model",
    "outcome",
    "reason",
    "n_slices",
    "tumour_volume_ml",
    "lesion_count",
    "largest_lesion_ml",
    "iou",
    "dice",
    "read_seconds",
    "segment_seconds",
    "measure_seconds",
    "mask_uri",
    "created_at",
)
"""What csv, json and parquet give, in this order; the table shows some of them."""

MORE_COLUMNS = ("archive", "series_key", "warnings", "detail", "label_reason")
"""What csv and json give besides; a Parquet file has the columns of the store's own data set."""

TOLD_APART_BY = {"model": "model", "archive": "archive", "created_at": "made"}
"""Columns of the table, with their heading, where the rows differ in them; what all have in common is said below it.

Of a moment, the day in UTC, as `--since` and `--until` take it; findings come in this order by themselves. It is not
the study date, which is of the study and not of its finding: `trend` shows that."""

MEASURED = {
    "outcome": "outcome",
    "tumour_volume_ml": "tumour ml",
    "lesion_count": "lesions",
    "largest_lesion_ml": "largest ml",
    "iou": "IoU",
    "dice": "Dice",
    "n_slices": "slices",
    "reason": "reason",
    "warnings": "warnings",
}
"""Columns of the table, with their heading, where a row has a value for them."""

RANKS = {"outcome": 0, "tumour_volume_ml": 0, "model": 1, "archive": 1, "reason": 1, "created_at": 2}
"""Those of 0 are shown in any terminal; in a narrow one all that are not named here give way first, the last of them
before the others, then the day."""
GIVES_WAY_FIRST = 3

UID_CHARACTERS = 22
"""A UID, of up to 64, is folded to no less while there is a column to leave out."""
NAME_CHARACTERS = 16
"""A longer name is folded."""
FOLDED = {"model": NAME_CHARACTERS, "archive": NAME_CHARACTERS, "warnings": UID_CHARACTERS}

MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.command()
@click.option("--run", "run_id", metavar="RUN_ID", help="Findings of one run, superseded ones too; else the latest.")
@click.option(
    "--order-by",
    metavar="COLUMN",
    default="created_at",
    show_default=True,
    help="Numbers and times from the largest, text from A; what was not measured comes last.",
)
@click.option("--archive", metavar="NAME", help="Only series of this archive.")
@click.option("--since", type=MOMENT, help="Only findings made on this day (UTC) or later; also 2026-11-22T01:30:00.")
@click.option("--until", type=MOMENT, help="Only findings made before this day.")
@click.option("--model", metavar="NAME", help="Only findings of this model.")
@click.option("--outcome", type=click.Choice(["segmented", "skipped", "failed", "crashed"]))
@click.option("--subject", "subject_key", metavar="KEY", help="Only this subject, by its key.")
@click.option("--min-volume-ml", type=click.FloatRange(min=0), help="Only tumour volumes of at least this.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many.")
@output_options
@store_options
def command(
    order_by: str,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    output_format: str,
    as_json: bool,
    out: Path | None,
    store: AnyPath,
    db: str | None,
    **wanted: Any,
) -> None:
    """Print findings from SQL: one row a series and model.

    NULL (an empty cell) means not measured; the reason says why. A volume of 0 means that no tumour was found. Warnings
    are of the series and its label: a number beside one may be wrong (docs/reading.md).
    The table has model, archive and day (UTC) of findings where rows differ in them; what all share is said below it.

    Exit codes: 0 ok, 1 the database cannot be read, 2 no such run, store, archive, model, subject or
    column.
    """
    from vaeseg.db.events import record_shown
    from vaeseg.db.findings import ORDER_COLUMNS, FindingFilter, query_findings

    shown_as = chosen_format(output_format, as_json, out)
    check_choice("--order-by", order_by, list(ORDER_COLUMNS))
    with opened_for_query(store, db) as database:
        asked = FindingFilter(since=_utc(since), until=_utc(until), **wanted)
        rows = query_findings(database, asked, order_by=order_by, limit=limit)
        filters = sorted(name for name, value in vars(asked).items() if value is not None)
        record_shown(database, "findings_shown", len(rows), {"format": shown_as, "filters": filters}, asked.run_id)
    if shown_as == "table":
        _print_table(rows)
    elif shown_as == "parquet":
        write_rows(COLUMNS, [[getattr(row, name) for name in COLUMNS] for row in rows], shown_as, out, _schema())
    else:
        columns = (*COLUMNS, *MORE_COLUMNS)
        write_rows(columns, [[_plain(getattr(row, name)) for name in columns] for row in rows], shown_as, out)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _schema() -> pa.Schema:
    """That of the store's own data set, so that both can be read as one."""
    from vaeseg.io.parquet import FINDINGS_SCHEMA

    return FINDINGS_SCHEMA


def _utc(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=UTC)


def _print_table(rows: list[ListedFinding]) -> None:
    cells = {name: [_cell(getattr(row, name)) for row in rows] for name in (*TOLD_APART_BY, *MEASURED)}
    apart = [name for name in TOLD_APART_BY if tells_apart(cells[name])]
    measured = [name for name in MEASURED if not rows or any(cells[name])]
    uids = Column(heading="series", cells=[row.series_instance_uid for row in rows], folds_to=UID_CHARACTERS)
    print_columns([uids, *(_column(name, cells[name]) for name in (*apart, *measured))])
    common = [f"{TOLD_APART_BY[name]} {cells[name][0]}" for name in TOLD_APART_BY if rows and name not in apart]
    if common:
        print(f"all rows: {', '.join(common)}", file=sys.stderr)
    n_warned = sum(bool(row.warnings) for row in rows)
    print(f"{len(rows)} findings{f', {n_warned} with warnings' * bool(n_warned)}; {NOTICE}", file=sys.stderr)


def _column(name: str, cells: list[str]) -> Column:
    return Column(
        heading=(TOLD_APART_BY | MEASURED)[name],
        cells=cells,
        is_number=name in MEASURED and name not in ("outcome", "reason", "warnings"),
        rank=RANKS.get(name, GIVES_WAY_FIRST),
        folds_to=FOLDED.get(name),
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).date().isoformat()
    return f"{value:.3f}" if isinstance(value, float) else str(value)
