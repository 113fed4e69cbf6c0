"""The trend compares days and not studies, by one model file only, and what a finding covered when it was made.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BEST_FIRST = """CASE WHEN covered_mm3 >= 0.75 * largest_mm3 THEN 0 ELSE 1 END,
                 CASE WHEN spacing_k_mm IS NULL THEN 1 ELSE 0 END, spacing_k_mm, n_slices DESC, series_key,
                 finding_id"""

# Studies without a date come first or last, as the database likes it: they have no days and no change in either place.
# One window a level, each parted by subject first: so that SQLite, too, looks at one subject where one is asked for.
TUMOUR_VOLUME_TREND = f"""
CREATE VIEW tumour_volume_trend AS
WITH candidates AS (
    SELECT f.id AS finding_id, f.series_id, f.series_instance_uid, f.study_instance_uid, f.subject_key, f.model,
           f.model_digest, f.tumour_volume_ml, f.lesion_count, f.largest_lesion_ml, s.series_key, s.spacing_k_mm,
           s.study_date AS date_of_series, COALESCE(f.n_slices, s.n_slices) AS n_slices,
           s.voxel_volume_mm3 * COALESCE(f.n_slices, s.n_slices) * s.rows * s.columns AS covered_mm3
    FROM findings AS f
    JOIN series AS s ON s.id = f.series_id
    WHERE f.superseded_at IS NULL AND f.outcome = 'segmented' AND f.subject_key IS NOT NULL
), compared AS (
    SELECT candidates.*, COUNT(*) OVER study AS n_series, MIN(date_of_series) OVER study AS study_date,
           MAX(covered_mm3) OVER study AS largest_mm3
    FROM candidates
    WINDOW study AS (PARTITION BY subject_key, model, study_instance_uid)
), ranked AS (
    SELECT compared.*, ROW_NUMBER() OVER (
        PARTITION BY subject_key, model, study_instance_uid
        ORDER BY {BEST_FIRST}
    ) AS place
    FROM compared
), studies AS (
    SELECT subject_key, model, model_digest, study_instance_uid, study_date, tumour_volume_ml, lesion_count,
           largest_lesion_ml, n_series, series_id, series_instance_uid, finding_id, series_key, spacing_k_mm, n_slices,
           covered_mm3, MAX(covered_mm3) OVER (PARTITION BY subject_key, model, study_date) AS largest_mm3
    FROM ranked
    WHERE place = 1
), days AS (
    SELECT studies.*, ROW_NUMBER() OVER (
        PARTITION BY subject_key, model, study_date
        ORDER BY {BEST_FIRST}
    ) AS place
    FROM studies
), dated AS (
    SELECT days.*, MIN(study_date) OVER (PARTITION BY subject_key, model) AS first_date
    FROM days
), timeline AS (
    SELECT dated.*, LAG(study_date) OVER days_before AS previous_date,
           LAG(tumour_volume_ml) OVER days_before AS previous_ml, LAG(model_digest) OVER days_before AS previous_digest
    FROM dated
    WINDOW days_before AS (PARTITION BY subject_key, model, CASE WHEN place = 1 THEN 1 ELSE 0 END ORDER BY study_date)
), intervals AS (
    SELECT timeline.*, {{since_first}} AS days_since_first,
           CASE WHEN place = 1 THEN {{since_previous}} END AS days_since_previous,
           CASE WHEN study_date IS NULL THEN 'undated'
                WHEN place > 1 THEN 'same_day'
                WHEN previous_date IS NULL THEN 'first_study'
                WHEN model_digest <> previous_digest THEN 'other_model'
                WHEN previous_ml <= 0 OR tumour_volume_ml <= 0 THEN 'no_tumour'
                WHEN tumour_volume_ml / previous_ml <= 1 THEN 'not_growing'
           END AS doubling_reason
    FROM timeline
)
SELECT subject_key, model, study_instance_uid, study_date, days_since_first, days_since_previous, tumour_volume_ml,
       CASE WHEN days_since_previous IS NOT NULL AND model_digest = previous_digest
            THEN tumour_volume_ml - previous_ml END AS change_ml,
       CASE WHEN days_since_previous IS NOT NULL AND model_digest = previous_digest AND previous_ml > 0
            THEN 100.0 * (tumour_volume_ml - previous_ml) / previous_ml END AS change_percent,
       CASE WHEN doubling_reason IS NULL
            THEN days_since_previous * 0.6931471805599453 / LN(tumour_volume_ml / previous_ml)
       END AS volume_doubling_days,
       doubling_reason, lesion_count, largest_lesion_ml, n_series, series_id, series_instance_uid, finding_id,
       model_digest
FROM intervals
"""


def upgrade():
    make(TUMOUR_VOLUME_TREND)


def downgrade():
    make(released().TUMOUR_VOLUME_TREND)


def make(view):
    dialect = op.get_bind().dialect.name
    statement = view.format(**released().FRAGMENTS[dialect])
    if dialect == "postgresql":  # views of others may rest on it; the columns are the same
        statement = statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)
    else:
        op.execute("DROP VIEW tumour_volume_trend")
    op.execute(statement)


def released():
    """The revision that made the view first; what it says never changes."""
    return op.get_context().environment_context.script.get_revision("0004").module
