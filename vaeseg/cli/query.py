"""`vaeseg-batch query`: any question in SQL, on a connection that can only read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import DURATION, NOTICE, database_url, opened_for_query, store_options
from vaeseg.cli.output import chosen_format, output_options, plain_value, write_rows
from vaeseg.errors import StoreError, UsageError

if TYPE_CHECKING:
    from vaeseg.db.answers import Answer
    from vaeseg.paths import AnyPath

GAP = "  "
"""Between two columns."""


@click.command()
@click.argument("statement", metavar="SELECT")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows at most.")
@click.option("--timeout", type=DURATION, default="60s", show_default=True, help="How long the database may take.")
@output_options
@store_options
def command(
    statement: str,
    limit: int,
    timeout: float,
    output_format: str,
    as_json: bool,
    out: Path | None,
    store: AnyPath,
    db: str | None,
) -> None:
    """Answer one SELECT over the views and tables of docs/data-model.md.

    \b
        vaeseg-batch query "SELECT * FROM coverage ORDER BY run_date DESC"

    Nothing can be changed, and paths are not shown. Whether there were more rows than --limit is said on stderr.

    Exit codes: 0 ok, 1 the time is up or the database cannot be read, 2 wrong SQL, or no such store.
    """
    from vaeseg.db.answers import Question
    from vaeseg.db.ask import ask

    shown_as = chosen_format(output_format, as_json, out)
    if timeout <= 0:
        raise UsageError("--timeout 0 leaves no time: name one such as 60s")
    answer = ask(database_url(store, db), Question(statement=statement, limit=limit, timeout_seconds=timeout))
    _record(store, db, statement, len(answer.rows))
    if shown_as == "table":
        _print_answer(answer)
    else:
        write_rows(answer.columns, answer.rows, shown_as, out)
    if answer.is_cut:
        print(f"only the first {limit} rows; --limit asks for more", file=sys.stderr)


def _record(store: AnyPath, db: str | None, statement: str, n_rows: int) -> None:
    """Who may not even see the tables cannot write an event; the server's own log has such readers."""
    from vaeseg.db.events import may_not_write, query_detail, record_shown

    try:
        with opened_for_query(store, db) as database:
            record_shown(database, "query_shown", n_rows, query_detail(database, statement))
    except StoreError as error:
        if not may_not_write(error):
            raise


def _print_answer(answer: Answer) -> None:
    """Side by side where that fits the terminal, else a line for each value."""
    values = [[plain_value(value) for value in row] for row in answer.rows]
    cells = [[_cell(value) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(answer.columns, *cells, strict=True)]
    if sum(widths) + len(GAP) * (len(widths) - 1) <= shutil.get_terminal_size().columns:
        alignments = [">" if _are_numbers(row[place] for row in values) else "<" for place in range(len(widths))]
        formats = [f"{alignment}{width}" for alignment, width in zip(alignments, widths, strict=True)]
        lines = [GAP.join(map(format, line, formats)) for line in [answer.columns, *cells]]
    else:
        lines = _one_below_another(answer.columns, cells)
    for line in lines:
        print(line.rstrip())
    print(f"{len(cells)} rows; {NOTICE}", file=sys.stderr)


def _one_below_another(columns: Sequence[str], rows: list[list[str]]) -> list[str]:
    width = max(map(len, columns))
    return [
        line
        for number, row in enumerate(rows, 1)
        for line in (f"-- {number}", *(f"{name:{width}}{GAP}{cell}" for name, cell in zip(columns, row, strict=True)))
    ]


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float | None) for value in values)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return f"{value:.6g}"
    return "".join(letter if letter.isprintable() else " " for letter in str(value))
