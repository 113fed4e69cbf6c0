"""`vaeseg-batch query`: any question in SQL, on a connection that can only read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import DURATION, NOTICE, database_url, store_options
from vaeseg.cli.output import chosen_format, output_options, write_rows
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.db.answers import Answer


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
    store: Path,
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

    wanted = chosen_format(output_format, as_json, out)
    if timeout <= 0:
        raise UsageError("--timeout 0 leaves no time: name one such as 60s")
    answer = ask(database_url(store, db), Question(statement=statement, limit=limit, timeout_seconds=timeout))
    if wanted == "table":
        _print_table(answer)
    else:
        write_rows(answer.columns, answer.rows, wanted, out)
    if answer.is_cut:
        print(f"only the first {limit} rows; --limit asks for more", file=sys.stderr)


def _print_table(answer: Answer) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(answer.columns):
        is_number = all(isinstance(row[place], int | float | None) for row in answer.rows)
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console(width=shutil.get_terminal_size().columns).print(table)
    print(f"{len(answer.rows)} rows; {NOTICE}", file=sys.stderr)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
