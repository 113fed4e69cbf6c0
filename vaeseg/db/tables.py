"""The tables, as `docs/data-model.md` explains them column by column; `migrations/` creates them.

archives ─┬─ series ─┬─ instances, changed_groups, exclusions
          │          └─ work_items ─┬─ findings ── lesions
          ├─ runs ───┴──────────────┴─ run_coverage
          └─ schedules
models, parts, events stand beside; `vaeseg.db.views` has the views
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Date, ForeignKey, Index, MetaData, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vaeseg.db.types import BigKey, CleanText, Json, PathText, UtcDateTime
from vaeseg.records import OUTCOMES

VERDICTS = ("readable", "refused")
RUN_STATUSES = ("running", "finished", "interrupted", "failed", "nothing_to_do")
WORK_STATES = ("pending", *OUTCOMES)
COVERAGE = ("segmented", "left_out_by_rule", "refused", "failed", "crashed", "pending", "waiting")


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: CleanText,
        date: Date,
        datetime: UtcDateTime,
        dict[str, Any]: Json,
        list[str]: Json,
    }


def _one_of(column: str, values: tuple[str, ...], name: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=name)


class ArchiveTable(Base):
    """A root directory that is scanned."""

    __tablename__ = "archives"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    root: Mapped[str] = mapped_column(PathText, unique=True)
    label_root: Mapped[str | None] = mapped_column(PathText)
    held_by: Mapped[str | None]
    removed_at: Mapped[datetime | None]


class SeriesTable(Base):
    """A series as the last scan saw it, with its verdict."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("archive_id", "series_key"),
        _one_of("verdict", VERDICTS, "verdict"),
        CheckConstraint("(verdict = 'refused') = (reason IS NOT NULL)", name="refused_has_reason"),
        Index(None, "series_instance_uid"),
        Index(None, "series_key"),
        Index(None, "archive_id", "series_instance_uid"),
        Index(None, "archive_id", "group_key"),
        Index(None, "archive_id", "fingerprint"),
        Index(None, "archive_id", "study_instance_uid"),
        Index(None, "subject_key"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    archive_id: Mapped[int] = mapped_column(ForeignKey("archives.id"))
    series_key: Mapped[str]
    series_instance_uid: Mapped[str]
    study_instance_uid: Mapped[str]
    subject_key: Mapped[str | None]
    modality: Mapped[str | None]
    study_date: Mapped[date | None]
    verdict: Mapped[str]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    warnings: Mapped[list[str]]
    n_instances: Mapped[int]
    n_files: Mapped[int]
    n_slices: Mapped[int | None]
    rows: Mapped[int | None]
    columns: Mapped[int | None]
    spacing_k_mm: Mapped[float | None]
    spacing_j_mm: Mapped[float | None]
    spacing_i_mm: Mapped[float | None]
    voxel_volume_mm3: Mapped[float | None]
    fingerprint: Mapped[str]
    group_key: Mapped[str]
    first_seen_at: Mapped[datetime]
    judged_at: Mapped[datetime]
    missing_since: Mapped[datetime | None]


class InstanceTable(Base):
    """A file found: in a series, refused with a reason, or read and about to be judged with its group.

    The only table that holds paths of files; those that an operator typed are `answers.PRIVATE_COLUMNS`.
    """

    __tablename__ = "instances"
    __table_args__ = (
        UniqueConstraint("archive_id", "path"),
        CheckConstraint("(group_key IS NULL) = (reason IS NOT NULL)", name="in_group_or_refused"),
        CheckConstraint("series_id IS NULL OR reason IS NULL", name="in_series_or_refused"),
        Index(None, "archive_id", "directory", "missing_since"),  # the last, so that no row is read for directories
        Index(None, "archive_id", "group_key"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    archive_id: Mapped[int] = mapped_column(ForeignKey("archives.id"))
    path: Mapped[str] = mapped_column(PathText)
    directory: Mapped[str] = mapped_column(PathText)
    size: Mapped[int] = mapped_column(BigKey)
    mtime_ns: Mapped[int] = mapped_column(BigKey)
    sop_instance_uid: Mapped[str | None]
    group_key: Mapped[str | None]
    header: Mapped[str | None]
    is_damaged: Mapped[bool]
    reader_version: Mapped[int]
    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id"), index=True)
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    missing_since: Mapped[datetime | None]


class ChangedGroupTable(Base):
    """A group of files that changed and is to be judged again."""

    __tablename__ = "changed_groups"

    archive_id: Mapped[int] = mapped_column(ForeignKey("archives.id"), primary_key=True)
    group_key: Mapped[str] = mapped_column(primary_key=True)


class ExclusionTable(Base):
    """A readable series that the rules of a scan leave out."""

    __tablename__ = "exclusions"

    series_id: Mapped[int] = mapped_column(BigKey, ForeignKey("series.id"), primary_key=True)
    rules_digest: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    rule: Mapped[str]
    detail: Mapped[str]
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    created_at: Mapped[datetime]


class ModelTable(Base):
    """A checkpoint that was used, by the digest of its file."""

    __tablename__ = "models"

    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    architecture: Mapped[dict[str, Any]]
    preprocessing: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class RunTable(Base):
    """One execution over a set of series."""

    __tablename__ = "runs"
    __table_args__ = (_one_of("status", RUN_STATUSES, "status"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    archive_id: Mapped[int | None] = mapped_column(ForeignKey("archives.id"))
    model_digest: Mapped[str | None] = mapped_column(ForeignKey("models.digest"))
    config: Mapped[dict[str, Any]]
    config_digest: Mapped[str]
    status: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime]
    driver: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    counts: Mapped[dict[str, Any]]
    files_found: Mapped[int | None]
    files_in_series: Mapped[int | None]
    files_refused: Mapped[int | None]
    files_waiting: Mapped[int | None]
    files_refused_by_reason: Mapped[dict[str, Any] | None] = mapped_column(Json)


class RunCoverageTable(Base):
    """What had become of everything in the archive when a run ended."""

    __tablename__ = "run_coverage"
    __table_args__ = (_one_of("category", COVERAGE, "category"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    n_series: Mapped[int]
    n_files: Mapped[int]


class ScheduleTable(Base):
    """A scan that a scheduler starts by itself."""

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    archive_id: Mapped[int] = mapped_column(ForeignKey("archives.id"))
    cron: Mapped[str]
    timezone: Mapped[str]
    window: Mapped[str | None]
    options: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    handled_until: Mapped[datetime]
    last_run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))


class WorkItemTable(Base):
    """What is to be done, once: a series in one state, with one model and one configuration."""

    __tablename__ = "work_items"
    __table_args__ = (
        UniqueConstraint("series_id", "fingerprint", "model_digest", "config_digest", name="uq_work_items_work_key"),
        _one_of("state", WORK_STATES, "state"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    fingerprint: Mapped[str]
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    config_digest: Mapped[str]
    state: Mapped[str]
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    attempts: Mapped[int]
    generation: Mapped[int]
    updated_at: Mapped[datetime]


class PartTable(Base):
    """A file of a Parquet data set."""

    __tablename__ = "parts"
    __table_args__ = (UniqueConstraint("run_id", "dataset", "name"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    dataset: Mapped[str]
    name: Mapped[str]
    n_rows: Mapped[int]
    sha256: Mapped[str]
    published: Mapped[bool]
    created_at: Mapped[datetime]


class FindingTable(Base):
    """The result for one series."""

    __tablename__ = "findings"
    __table_args__ = (
        _one_of("outcome", OUTCOMES, "outcome"),
        CheckConstraint("(outcome = 'segmented') = (reason IS NULL)", name="unmeasured_has_reason"),
        CheckConstraint("(outcome = 'segmented') = (tumour_volume_ml IS NOT NULL)", name="segmented_has_volume"),
        Index(None, "run_id", "part"),
        Index(None, "work_item_id"),
        Index(
            "uq_findings_current",
            "series_id",
            "model",
            unique=True,
            sqlite_where=text("superseded_at IS NULL"),
            postgresql_where=text("superseded_at IS NULL"),
        ),
        Index(None, "series_id", "model"),
        Index(None, "subject_key"),
        Index(None, "created_at"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    work_item_id: Mapped[int] = mapped_column(ForeignKey("work_items.id"))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    series_instance_uid: Mapped[str]
    study_instance_uid: Mapped[str]
    subject_key: Mapped[str | None]
    model: Mapped[str]
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    fingerprint: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    warnings: Mapped[list[str]]
    n_slices: Mapped[int | None]
    tumour_volume_ml: Mapped[float | None]
    lesion_count: Mapped[int | None]
    largest_lesion_ml: Mapped[float | None]
    iou: Mapped[float | None]
    dice: Mapped[float | None]
    iou_model_grid: Mapped[float | None]
    dice_model_grid: Mapped[float | None]
    label_reason: Mapped[str | None]
    read_seconds: Mapped[float | None]
    segment_seconds: Mapped[float | None]
    measure_seconds: Mapped[float | None]
    mask_uri: Mapped[str | None]
    mask_sha256: Mapped[str | None]
    part: Mapped[str]
    created_at: Mapped[datetime]
    superseded_at: Mapped[datetime | None]


class LesionTable(Base):
    """A lesion of a finding."""

    __tablename__ = "lesions"

    finding_id: Mapped[int] = mapped_column(BigKey, ForeignKey("findings.id"), primary_key=True)
    lesion_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    volume_ml: Mapped[float]
    n_voxels: Mapped[int] = mapped_column(BigKey)
    centroid_x_lps_mm: Mapped[float]
    centroid_y_lps_mm: Mapped[float]
    centroid_z_lps_mm: Mapped[float]
    longest_axial_diameter_mm: Mapped[float]
    mean_hu: Mapped[float]


class EventTable(Base):
    """What happened, in order; rows are only ever added."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    at: Mapped[datetime]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    kind: Mapped[str]
    actor: Mapped[str | None]
    n_rows: Mapped[int | None]
    detail: Mapped[dict[str, Any]]
