"""Rows of an answer as one Parquet file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vaeseg.errors import UsageError


def parquet_bytes(columns: Sequence[str], rows: Sequence[Sequence[Any]], schema: pa.Schema | None = None) -> bytes:
    """A Parquet file, compressed with zstd.

    Args:
        columns: unique names.
        rows: a value for each column.
        schema: of the same columns; from the values if None.

    Raises:
        UsageError: values of one column that have no type in common.
    """
    arrays = [_array(name, [row[place] for row in rows], schema) for place, name in enumerate(columns)]
    table = pa.table(arrays, schema=schema) if schema else pa.table(dict(zip(columns, arrays, strict=True)))
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _array(name: str, values: list[Any], schema: pa.Schema | None) -> pa.Array:
    try:
        return pa.array(values, schema.field(name).type if schema else None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise UsageError(
            f"column {name} holds values of several types, which Parquet cannot: use csv or json"
        ) from error
