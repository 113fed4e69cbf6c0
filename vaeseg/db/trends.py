"""How the tumour volume of a subject changed from study to study."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date

from sqlalchemy import select

from vaeseg.db.findings import check_subject, nothing_by
from vaeseg.db.session import Database
from vaeseg.db.views import LATEST_FINDINGS, TUMOUR_VOLUME_TREND


@dataclass(frozen=True, kw_only=True)
class TrendRow:
    """One study, as the view `tumour_volume_trend` has it, with the warnings of the finding that stands for it."""

    subject_key: str
    model: str
    study_instance_uid: str
    study_date: date | None
    days_since_first: int | None
    days_since_previous: int | None
    tumour_volume_ml: float
    change_ml: float | None
    change_percent: float | None
    volume_doubling_days: float | None
    doubling_reason: str | None
    """Why there is no doubling time."""
    lesion_count: int
    largest_lesion_ml: float
    n_series: int
    """Segmented series of the study, of which one was chosen."""
    series_instance_uid: str
    warnings: tuple[str, ...] = ()


def subject_trend(database: Database, subject_key: str, model: str | None = None) -> list[TrendRow]:
    """The studies of a subject by model and day; those without a date come last.

    Empty for a subject of whom nothing was segmented.

    Raises:
        UsageError: no such subject, or it has no finding by such a model.
    """
    view = TUMOUR_VOLUME_TREND
    order = (view.c.model, view.c.study_date.asc().nulls_last(), view.c.study_instance_uid)
    of_view = (view.c[field.name] for field in fields(TrendRow) if field.name != "warnings")
    statement = select(*of_view, LATEST_FINDINGS.c.warnings)
    statement = statement.join(LATEST_FINDINGS, LATEST_FINDINGS.c.id == view.c.finding_id)
    with database.read() as connection:
        check_subject(connection, subject_key)
        found = connection.execute(statement.where(view.c.subject_key == subject_key).order_by(*order))
        rows = [TrendRow(**{**row._mapping, "warnings": tuple(row.warnings)}) for row in found]
    if model is None:
        return rows
    models = sorted({row.model for row in rows})
    if model not in models:
        raise nothing_by(f"subject {subject_key}", model, models)
    return [row for row in rows if row.model == model]
