"""The views, as tables to select from; `migrations/` creates them, `docs/data-model.md` explains them.

They are in metadata of their own, so that nothing tries to create them as tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Date, Float, Integer, MetaData, Table

from vaeseg.db.tables import COVERAGE, Base, FindingTable, LesionTable
from vaeseg.db.types import BigKey, CleanText, UtcDateTime

VIEWS = MetaData()

LATEST_FINDINGS = Table(
    "latest_findings",
    VIEWS,
    *(Column(column.name, column.type, nullable=column.nullable) for column in FindingTable.__table__.columns),
    Column("archive", CleanText, nullable=False),
    Column("series_missing_since", UtcDateTime),
)
"""Findings that nothing supersedes."""


def _required(name: str, kind: Any = CleanText) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _of(table: type[Base], *names: str) -> list[Column[Any]]:
    columns = table.__table__.columns
    return [Column(name, columns[name].type, nullable=columns[name].nullable) for name in names]


LATEST_LESIONS = Table(
    "latest_lesions",
    VIEWS,
    _required("finding_id", BigKey),
    *_of(FindingTable, "run_id", "series_id", "series_instance_uid", "study_instance_uid", "subject_key"),
    Column("study_date", Date),
    _required("model"),
    *_of(LesionTable, *LesionTable.__table__.columns.keys()[1:]),
)
"""Lesions of those findings."""

TUMOUR_VOLUME_TREND = Table(
    "tumour_volume_trend",
    VIEWS,
    _required("subject_key"),
    _required("model"),
    _required("study_instance_uid"),
    Column("study_date", Date),
    Column("days_since_first", Integer),
    Column("days_since_previous", Integer),
    _required("tumour_volume_ml", Float),
    Column("change_ml", Float),
    Column("change_percent", Float),
    Column("volume_doubling_days", Float),
    Column("doubling_reason", CleanText),
    _required("lesion_count", Integer),
    _required("largest_lesion_ml", Float),
    _required("n_series", Integer),
    _required("series_id", BigKey),
    _required("series_instance_uid"),
    _required("finding_id", BigKey),
    _required("model_digest"),
)
"""Tumour volume of each subject, model and study over time."""

COVERAGE_OF_RUNS = Table(
    "coverage",
    VIEWS,
    _required("archive"),
    _required("run_id"),
    _required("run_date", Date),
    Column("model", CleanText),
    _required("status"),
    _required("series_found", Integer),
    *(_required(f"series_{category}", Integer) for category in COVERAGE),
    Column("files_found", Integer),
    *(_required(f"files_{category}", Integer) for category in COVERAGE),
)
"""What had become of everything in an archive at the end of each run."""

COVERAGE_REASONS = Table(
    "coverage_reasons",
    VIEWS,
    _required("archive"),
    _required("run_id"),
    _required("run_date", Date),
    _required("category"),
    Column("reason", CleanText),
    _required("n_series", Integer),
    _required("n_files", Integer),
)
"""The same by reason, one row each."""

RUN_THROUGHPUT = Table(
    "run_throughput",
    VIEWS,
    _required("archive"),
    _required("run_id"),
    _required("run_date", Date),
    Column("model", CleanText),
    _required("status"),
    _required("n_series", Integer),
    _required("n_segmented", Integer),
    _required("n_slices", Integer),
    _required("wall_seconds", Float),
    *(
        Column(name, Float)
        for name in (
            "slices_per_second",
            "read_seconds",
            "segment_seconds",
            "measure_seconds",
            "read_share",
            "segment_share",
            "measure_share",
        )
    ),
)
"""How fast each run was, and what took its time."""
