"""Rows of results as CSV, JSON or Parquet, on stdout or in a file; each command prints its own table."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaeseg.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Function = TypeVar("Function", bound=Callable[..., Any])
Rows = Sequence[Sequence[Any]]

FORMATS = ("table", "csv", "json", "parquet")

_options = (
    click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="csv, json and parquet give every column; parquet needs --out.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The same as --format json."),
    click.option(
        "--out",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write csv, json or parquet to this file and not to stdout; one that is there is replaced.",
    ),
)


def output_options(function: Function) -> Function:
    """Add --format, --json and --out: `output_format: str`, `as_json: bool`, `out: Path | None`."""
    for option in reversed(_options):
        function = option(function)
    return function


def chosen_format(output_format: str, as_json: bool, out: Path | None) -> str:
    """What --format and --json together ask for.

    Raises:
        UsageError: a format that does not go with --out, or not without it; a directory that is not there.
    """
    chosen = "json" if as_json else output_format
    if chosen == "parquet" and out is None:
        raise UsageError("--format parquet needs --out FILE")
    if chosen == "table" and out is not None:
        raise UsageError("--out goes with --format csv, json or parquet")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"no directory {out.parent} to hold {out.name}")
    return chosen


def write_rows(
    columns: Sequence[str], rows: Rows, output_format: str, out: Path | None, schema: pa.Schema | None = None
) -> None:
    """Write rows in a format other than table.

    Args:
        columns: unique names.
        rows: a value for each column.
        output_format: as `chosen_format` returned it.
        out: a file instead of stdout.
        schema: of Parquet; from the values if None.

    Raises:
        StoreError: the file cannot be written.
        UsageError: values that Parquet cannot hold in one column.
    """
    from vaeseg.durable import write_file

    if output_format == "parquet":
        from vaeseg.io.tables import parquet_bytes

        data = parquet_bytes(
            columns, rows if schema else [[plain_value(value) for value in row] for row in rows], schema
        )
    else:
        data = (_csv if output_format == "csv" else _json)(columns, rows).encode("utf-8", "replace")
    if out is None:
        sys.stdout.write(data.decode())
    else:
        write_file(out, data, str(out))


def _csv(columns: Sequence[str], rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_text(value) for value in row] for row in rows)
    return text.getvalue()


def _json(columns: Sequence[str], rows: Rows) -> str:
    objects = [dict(zip(columns, map(_json_value, row), strict=True)) for row in rows]
    return json.dumps(objects) + "\n"


def plain_value(value: Any) -> Any:
    """What every format can hold: JSON values become text, exact decimals become numbers."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, bool | int | float | str | bytes | date):
        return value
    return str(value)


def _text(value: Any) -> Any:
    value = plain_value(value)
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, date) else value


def _json_value(value: Any) -> Any:
    """Lists and objects stay what they are; what is not a number is null."""
    if isinstance(value, list | dict):
        return value
    value = _text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
