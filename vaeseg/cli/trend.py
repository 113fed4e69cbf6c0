"""`vaeseg-batch trend`: is it growing?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import NOTICE, json_option, opened_for_query, store_options

if TYPE_CHECKING:
    from vaeseg.db.trends import TrendRow
    from vaeseg.paths import AnyPath

COLUMNS = ("study date", "day", "ml", "change ml", "change %", "doubling", "lesions")
"""Headings of the table; a doubling time is in days. Warnings follow where a study has some."""


@click.command()
@click.argument("subject_key")
@click.option("--model", metavar="NAME", help="Only findings of this model.")
@click.option(
    "--png", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Draw the chart into this file too."
)
@store_options
@json_option
def command(
    subject_key: str, model: str | None, png: Path | None, store: AnyPath, db: str | None, as_json: bool
) -> None:
    """Show the tumour volume of a subject over its studies, with change and volume doubling time.

    Of a study with several segmented series one counts, and of several studies of a day one (docs/data-model.md says
    which). Warnings are of the series that counts: its number may be wrong. A doubling time needs two days, one file of
    the model, and a volume that grew; where there is none, the reason is shown. Other studies of a day and those
    without a date are listed, and left out of the chart.

    Exit codes: 0 ok, 1 the database cannot be read or the file not written, 2 no such subject, model or store.
    """
    from vaeseg.db.events import record_shown
    from vaeseg.db.trends import subject_trend

    with opened_for_query(store, db) as database:
        rows = subject_trend(database, subject_key, model)
        record_shown(database, "trend_shown", len(rows), {})
    if as_json:
        print(json.dumps([_as_json(row) for row in rows]))
    else:
        _print(rows)
    if png is not None:
        from vaeseg.cli.trend_chart import save_chart

        save_chart(png, rows)


def _as_json(row: TrendRow) -> dict[str, Any]:
    return asdict(row) | {"study_date": row.study_date and row.study_date.isoformat()}


def _print(rows: list[TrendRow]) -> None:
    from vaeseg.cli.trend_chart import text_chart

    if not rows:
        print("nothing of this subject was segmented", file=sys.stderr)
        return
    for name, of_model in groupby(rows, key=lambda row: row.model):
        studies = list(of_model)
        print(f"model {name}")
        heading = (*COLUMNS, "warnings") if any(row.warnings for row in studies) else COLUMNS
        for line in [heading, *map(_cells, studies)]:
            print("  ".join(f"{cell:>10}" for cell in line).rstrip())
        for text in text_chart(studies):
            print(text)
    print(NOTICE, file=sys.stderr)


def _cells(row: TrendRow) -> tuple[str, ...]:
    return (
        row.study_date.isoformat() if row.study_date else "-",
        "-" if row.days_since_first is None else str(row.days_since_first),
        f"{row.tumour_volume_ml:.2f}",
        "-" if row.change_ml is None else f"{row.change_ml:+.2f}",
        "-" if row.change_percent is None else f"{row.change_percent:+.0f}",
        str(row.doubling_reason) if row.volume_doubling_days is None else f"{row.volume_doubling_days:.0f}",
        str(row.lesion_count),
        " ".join(row.warnings),
    )
