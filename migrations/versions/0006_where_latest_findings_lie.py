"""Latest findings name their archive, and say since when their series has been gone from it; series are found by
study.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = """
       {f}id, {f}run_id, {f}work_item_id, {f}series_id, {f}series_instance_uid, {f}study_instance_uid, {f}subject_key,
       {f}model, {f}model_digest, {f}fingerprint, {f}outcome, {f}reason, {f}detail, {f}warnings, {f}n_slices,
       {f}tumour_volume_ml, {f}lesion_count, {f}largest_lesion_ml, {f}iou, {f}dice, {f}iou_model_grid,
       {f}dice_model_grid, {f}label_reason, {f}read_seconds, {f}segment_seconds, {f}measure_seconds, {f}mask_uri,
       {f}mask_sha256, {f}part, {f}created_at, {f}superseded_at"""

BEFORE = f"CREATE VIEW latest_findings AS SELECT {COLUMNS.format(f='')} FROM findings WHERE superseded_at IS NULL"

AFTER = f"""
CREATE VIEW latest_findings AS
SELECT {COLUMNS.format(f="f.")}, a.name AS archive, s.missing_since AS series_missing_since
FROM findings AS f
JOIN series AS s ON s.id = f.series_id
JOIN archives AS a ON a.id = s.archive_id
WHERE f.superseded_at IS NULL
"""


INDEX = "ix_series_archive_id_study_instance_uid"


def upgrade():
    op.create_index(INDEX, "series", ["archive_id", "study_instance_uid"])
    op.execute("DROP VIEW latest_findings")
    op.execute(AFTER)


def downgrade():
    op.execute("DROP VIEW latest_findings")
    op.execute(BEFORE)
    op.drop_index(INDEX, "series")
