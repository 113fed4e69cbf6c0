"""The first tables: index of archives, ledger of work, findings and the parts that hold them.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
MOMENT = sa.DateTime(timezone=True)

LATEST_FINDINGS = """
CREATE VIEW latest_findings AS
SELECT id, run_id, work_item_id, series_id, series_instance_uid, study_instance_uid, subject_key, model, model_digest,
       fingerprint, outcome, reason, detail, warnings, n_slices, tumour_volume_ml, lesion_count, largest_lesion_ml,
       iou, dice, iou_model_grid, dice_model_grid, label_reason, read_seconds, segment_seconds, measure_seconds,
       mask_uri, mask_sha256, part, created_at, superseded_at
FROM findings
WHERE superseded_at IS NULL
"""


def upgrade():
    create_index_of_archives()
    create_ledger()
    create_findings()
    op.execute(LATEST_FINDINGS)


def downgrade():
    op.execute("DROP VIEW latest_findings")
    for table in ("lesions", "findings", "parts", "events", "work_items", "instances", "series", "runs", "models", "archives"):
        op.drop_table(table)


def required(name, kind=sa.Text):
    return sa.Column(name, kind, nullable=False)


def optional(name, kind=sa.Text):
    return sa.Column(name, kind, nullable=True)


def reference(table, column, target):
    referred = target.split(".")[0]
    return sa.ForeignKeyConstraint([column], [target], name=f"fk_{table}_{column}_{referred}")


def create_index_of_archives():
    op.create_table(
        "archives",
        required("id", BIG_KEY),
        required("name"),
        required("root"),
        sa.PrimaryKeyConstraint("id", name="pk_archives"),
        sa.UniqueConstraint("name", name="uq_archives_name"),
        sa.UniqueConstraint("root", name="uq_archives_root"),
    )
    op.create_table(
        "series",
        required("id", BIG_KEY),
        required("archive_id", BIG_KEY),
        required("series_key"),
        required("series_instance_uid"),
        required("study_instance_uid"),
        optional("subject_key"),
        optional("modality"),
        required("verdict"),
        optional("reason"),
        optional("detail"),
        required("warnings", JSON),
        required("n_instances", sa.Integer),
        required("n_files", sa.Integer),
        optional("n_slices", sa.Integer),
        optional("rows", sa.Integer),
        optional("columns", sa.Integer),
        optional("spacing_k_mm", sa.Double),
        optional("spacing_j_mm", sa.Double),
        optional("spacing_i_mm", sa.Double),
        optional("voxel_volume_mm3", sa.Double),
        required("fingerprint"),
        required("first_seen_at", MOMENT),
        required("last_seen_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("archive_id", "series_key", name="uq_series_archive_id_series_key"),
        sa.CheckConstraint("verdict IN ('readable', 'refused')", name=op.f("ck_series_verdict")),
        sa.CheckConstraint("(verdict = 'refused') = (reason IS NOT NULL)", name=op.f("ck_series_refused_has_reason")),
        reference("series", "archive_id", "archives.id"),
    )
    op.create_index("ix_series_series_instance_uid", "series", ["series_instance_uid"])
    op.create_table(
        "instances",
        required("id", BIG_KEY),
        required("archive_id", BIG_KEY),
        required("path"),
        required("size", BIG_KEY),
        required("mtime_ns", BIG_KEY),
        optional("sop_instance_uid"),
        optional("series_id", BIG_KEY),
        optional("reason"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("archive_id", "path", name="uq_instances_archive_id_path"),
        sa.CheckConstraint("(series_id IS NULL) = (reason IS NOT NULL)", name=op.f("ck_instances_in_series_or_refused")),
        reference("instances", "archive_id", "archives.id"),
        reference("instances", "series_id", "series.id"),
    )
    op.create_index("ix_instances_series_id", "instances", ["series_id"])


def create_ledger():
    op.create_table(
        "models",
        required("digest"),
        required("name"),
        required("architecture", JSON),
        required("preprocessing", JSON),
        required("metrics", JSON),
        required("created_at", MOMENT),
        sa.PrimaryKeyConstraint("digest", name="pk_models"),
    )
    op.create_table(
        "runs",
        required("id"),
        required("kind"),
        optional("archive_id", BIG_KEY),
        optional("model_digest"),
        required("config", JSON),
        required("config_digest"),
        required("status"),
        required("started_at", MOMENT),
        optional("finished_at", MOMENT),
        required("heartbeat_at", MOMENT),
        required("counts", JSON),
        optional("files_found", sa.Integer),
        optional("files_in_series", sa.Integer),
        optional("files_refused", sa.Integer),
        optional("files_refused_by_reason", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint(
            "status IN ('running', 'finished', 'interrupted', 'failed', 'nothing_to_do')", name=op.f("ck_runs_status")
        ),
        reference("runs", "archive_id", "archives.id"),
        reference("runs", "model_digest", "models.digest"),
    )
    op.create_table(
        "work_items",
        required("id", BIG_KEY),
        required("series_id", BIG_KEY),
        required("fingerprint"),
        required("model_digest"),
        required("config_digest"),
        required("state"),
        required("run_id"),
        required("attempts", sa.Integer),
        required("generation", sa.Integer),
        required("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_work_items"),
        sa.UniqueConstraint(
            "series_id", "fingerprint", "model_digest", "config_digest", name="uq_work_items_work_key"
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'segmented', 'skipped', 'failed', 'crashed')", name=op.f("ck_work_items_state")
        ),
        reference("work_items", "series_id", "series.id"),
        reference("work_items", "model_digest", "models.digest"),
        reference("work_items", "run_id", "runs.id"),
    )
    op.create_index("ix_work_items_run_id", "work_items", ["run_id"])
    op.create_table(
        "events",
        required("id", BIG_KEY),
        required("at", MOMENT),
        optional("run_id"),
        required("kind"),
        required("detail", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        reference("events", "run_id", "runs.id"),
    )
    op.create_index("ix_events_run_id", "events", ["run_id"])


def create_findings():
    op.create_table(
        "parts",
        required("id", BIG_KEY),
        required("run_id"),
        required("dataset"),
        required("name"),
        required("n_rows", sa.Integer),
        required("sha256"),
        required("published", sa.Boolean),
        required("created_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_parts"),
        sa.UniqueConstraint("run_id", "dataset", "name", name="uq_parts_run_id_dataset_name"),
        reference("parts", "run_id", "runs.id"),
    )
    op.create_table(
        "findings",
        required("id", BIG_KEY),
        required("run_id"),
        required("work_item_id", BIG_KEY),
        required("series_id", BIG_KEY),
        required("series_instance_uid"),
        required("study_instance_uid"),
        optional("subject_key"),
        required("model"),
        required("model_digest"),
        required("fingerprint"),
        required("outcome"),
        optional("reason"),
        optional("detail"),
        required("warnings", JSON),
        optional("n_slices", sa.Integer),
        optional("tumour_volume_ml", sa.Double),
        optional("lesion_count", sa.Integer),
        optional("largest_lesion_ml", sa.Double),
        optional("iou", sa.Double),
        optional("dice", sa.Double),
        optional("iou_model_grid", sa.Double),
        optional("dice_model_grid", sa.Double),
        optional("label_reason"),
        optional("read_seconds", sa.Double),
        optional("segment_seconds", sa.Double),
        optional("measure_seconds", sa.Double),
        optional("mask_uri"),
        optional("mask_sha256"),
        required("part"),
        required("created_at", MOMENT),
        optional("superseded_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_findings"),
        sa.CheckConstraint("outcome IN ('segmented', 'skipped', 'failed', 'crashed')", name=op.f("ck_findings_outcome")),
        sa.CheckConstraint("(outcome = 'segmented') = (reason IS NULL)", name=op.f("ck_findings_unmeasured_has_reason")),
        sa.CheckConstraint(
            "(outcome = 'segmented') = (tumour_volume_ml IS NOT NULL)", name=op.f("ck_findings_segmented_has_volume")
        ),
        reference("findings", "run_id", "runs.id"),
        reference("findings", "work_item_id", "work_items.id"),
        reference("findings", "series_id", "series.id"),
        reference("findings", "model_digest", "models.digest"),
    )
    op.create_index("ix_findings_run_id", "findings", ["run_id"])
    op.create_index("ix_findings_work_item_id", "findings", ["work_item_id"])
    op.create_index("ix_findings_series_id_model", "findings", ["series_id", "model"])
    op.create_index(
        "uq_findings_current",
        "findings",
        ["series_id", "model"],
        unique=True,
        sqlite_where=sa.text("superseded_at IS NULL"),
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.create_table(
        "lesions",
        required("finding_id", BIG_KEY),
        required("lesion_index", sa.Integer),
        required("volume_ml", sa.Double),
        required("n_voxels", BIG_KEY),
        required("centroid_x_lps_mm", sa.Double),
        required("centroid_y_lps_mm", sa.Double),
        required("centroid_z_lps_mm", sa.Double),
        required("longest_axial_diameter_mm", sa.Double),
        required("mean_hu", sa.Double),
        sa.PrimaryKeyConstraint("finding_id", "lesion_index", name="pk_lesions"),
        reference("lesions", "finding_id", "findings.id"),
    )
