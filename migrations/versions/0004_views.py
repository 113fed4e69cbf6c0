"""Views for the questions that people ask, and indexes for them.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CATEGORIES = ("segmented", "left_out_by_rule", "refused", "failed", "crashed", "pending", "waiting")

FRAGMENTS = {
    "sqlite": {
        "day": "date(r.started_at)",
        "seconds": "ROUND((julianday(COALESCE(r.finished_at, r.heartbeat_at)) - julianday(r.started_at)) * 86400, 3)",
        "since_first": "CAST(julianday(study_date) - julianday(first_date) AS INTEGER)",
        "since_previous": "CAST(julianday(study_date) - julianday(previous_date) AS INTEGER)",
    },
    "postgresql": {
        "day": "CAST(r.started_at AT TIME ZONE 'UTC' AS DATE)",
        "seconds": "CAST(EXTRACT(EPOCH FROM COALESCE(r.finished_at, r.heartbeat_at) - r.started_at)"
        " AS DOUBLE PRECISION)",
        "since_first": "(study_date - first_date)",
        "since_previous": "(study_date - previous_date)",
    },
}
"""What the two databases spell differently."""

LATEST_LESIONS = """
CREATE VIEW latest_lesions AS
SELECT f.id AS finding_id, f.run_id, f.series_id, f.series_instance_uid, f.study_instance_uid, f.subject_key,
       s.study_date, f.model, l.lesion_index, l.volume_ml, l.n_voxels, l.centroid_x_lps_mm, l.centroid_y_lps_mm,
       l.centroid_z_lps_mm, l.longest_axial_diameter_mm, l.mean_hu
FROM findings AS f
JOIN lesions AS l ON l.finding_id = f.id
JOIN series AS s ON s.id = f.series_id
WHERE f.superseded_at IS NULL
"""

# Studies without a date come first or last, as the database likes it: they have no days and no change in either place.
# One window a level, each parted by subject first: so that SQLite, too, looks at one subject where one is asked for.
TUMOUR_VOLUME_TREND = """
CREATE VIEW tumour_volume_trend AS
WITH candidates AS (
    SELECT f.id AS finding_id, f.series_id, f.series_instance_uid, f.study_instance_uid, f.subject_key, f.model,
           f.model_digest, f.tumour_volume_ml, f.lesion_count, f.largest_lesion_ml, s.series_key, s.spacing_k_mm,
           s.n_slices, s.study_date, s.voxel_volume_mm3 * s.n_slices * s.rows * s.columns AS covered_mm3
    FROM findings AS f
    JOIN series AS s ON s.id = f.series_id
    WHERE f.superseded_at IS NULL AND f.outcome = 'segmented' AND f.subject_key IS NOT NULL
), compared AS (
    SELECT candidates.*, COUNT(*) OVER study AS n_series, MIN(study_date) OVER study AS earliest_date,
           MAX(covered_mm3) OVER study AS largest_mm3
    FROM candidates
    WINDOW study AS (PARTITION BY subject_key, model, study_instance_uid)
), ranked AS (
    SELECT compared.*, ROW_NUMBER() OVER (
        PARTITION BY subject_key, model, study_instance_uid
        ORDER BY CASE WHEN covered_mm3 >= 0.75 * largest_mm3 THEN 0 ELSE 1 END,
                 CASE WHEN spacing_k_mm IS NULL THEN 1 ELSE 0 END, spacing_k_mm, n_slices DESC, series_key, finding_id
    ) AS place
    FROM compared
), timeline AS (
    SELECT subject_key, model, model_digest, study_instance_uid, earliest_date AS study_date, tumour_volume_ml,
           lesion_count, largest_lesion_ml, n_series, series_id, series_instance_uid, finding_id,
           MIN(earliest_date) OVER dated AS first_date, LAG(earliest_date) OVER dated AS previous_date,
           LAG(tumour_volume_ml) OVER dated AS previous_ml
    FROM ranked
    WHERE place = 1
    WINDOW dated AS (PARTITION BY subject_key, model ORDER BY earliest_date, study_instance_uid)
), intervals AS (
    SELECT timeline.*, {since_first} AS days_since_first, {since_previous} AS days_since_previous,
           CASE WHEN study_date IS NULL THEN 'undated'
                WHEN previous_date IS NULL THEN 'first_study'
                WHEN study_date = previous_date THEN 'same_day'
                WHEN previous_ml <= 0 OR tumour_volume_ml <= 0 THEN 'no_tumour'
                WHEN tumour_volume_ml / previous_ml <= 1 THEN 'not_growing'
           END AS doubling_reason
    FROM timeline
)
SELECT subject_key, model, study_instance_uid, study_date, days_since_first, days_since_previous, tumour_volume_ml,
       CASE WHEN days_since_previous IS NOT NULL THEN tumour_volume_ml - previous_ml END AS change_ml,
       CASE WHEN days_since_previous IS NOT NULL AND previous_ml > 0
            THEN 100.0 * (tumour_volume_ml - previous_ml) / previous_ml END AS change_percent,
       CASE WHEN doubling_reason IS NULL
            THEN days_since_previous * 0.6931471805599453 / LN(tumour_volume_ml / previous_ml)
       END AS volume_doubling_days,
       doubling_reason, lesion_count, largest_lesion_ml, n_series, series_id, series_instance_uid, finding_id,
       model_digest
FROM intervals
"""

COVERAGE = """
CREATE VIEW coverage AS
SELECT a.name AS archive, r.id AS run_id, {day} AS run_date, m.name AS model, r.status,
       SUM(c.n_series) AS series_found, {series},
       r.files_found, {files}
FROM runs AS r
JOIN run_coverage AS c ON c.run_id = r.id
JOIN archives AS a ON a.id = r.archive_id
LEFT JOIN models AS m ON m.digest = r.model_digest
GROUP BY a.name, r.id, r.started_at, m.name, r.status, r.files_found
"""

COVERAGE_REASONS = """
CREATE VIEW coverage_reasons AS
SELECT a.name AS archive, r.id AS run_id, {day} AS run_date, c.category, NULLIF(c.reason, '') AS reason,
       c.n_series, c.n_files
FROM runs AS r
JOIN run_coverage AS c ON c.run_id = r.id
JOIN archives AS a ON a.id = r.archive_id
"""

RUN_THROUGHPUT = """
CREATE VIEW run_throughput AS
WITH totals AS (
    SELECT run_id, COUNT(*) AS n_series,
           SUM(CASE WHEN outcome = 'segmented' THEN 1 ELSE 0 END) AS n_segmented,
           SUM(CASE WHEN outcome = 'segmented' THEN n_slices ELSE 0 END) AS n_slices,
           SUM(read_seconds) AS read_seconds, SUM(segment_seconds) AS segment_seconds,
           SUM(measure_seconds) AS measure_seconds,
           NULLIF(COALESCE(SUM(read_seconds), 0) + COALESCE(SUM(segment_seconds), 0)
                  + COALESCE(SUM(measure_seconds), 0), 0) AS worked_seconds
    FROM findings
    GROUP BY run_id
), timed AS (
    SELECT a.name AS archive, r.id AS run_id, {day} AS run_date, m.name AS model, r.status, {seconds} AS wall_seconds
    FROM runs AS r
    JOIN archives AS a ON a.id = r.archive_id
    LEFT JOIN models AS m ON m.digest = r.model_digest
)
SELECT timed.archive, timed.run_id, timed.run_date, timed.model, timed.status, totals.n_series, totals.n_segmented,
       totals.n_slices, timed.wall_seconds, totals.n_slices / NULLIF(timed.wall_seconds, 0) AS slices_per_second,
       totals.read_seconds, totals.segment_seconds, totals.measure_seconds,
       totals.read_seconds / totals.worked_seconds AS read_share,
       totals.segment_seconds / totals.worked_seconds AS segment_share,
       totals.measure_seconds / totals.worked_seconds AS measure_share
FROM timed
JOIN totals ON totals.run_id = timed.run_id
"""

VIEWS = {
    "latest_lesions": LATEST_LESIONS,
    "tumour_volume_trend": TUMOUR_VOLUME_TREND,
    "coverage": COVERAGE,
    "coverage_reasons": COVERAGE_REASONS,
    "run_throughput": RUN_THROUGHPUT,
}

INDEXES = (("findings", "subject_key"), ("findings", "created_at"), ("series", "subject_key"))


def upgrade():
    for table, column in INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column])
    fragments = FRAGMENTS[op.get_bind().dialect.name] | {what: sums(what) for what in ("series", "files")}
    for view in VIEWS.values():
        op.execute(view.format(**fragments))


def downgrade():
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    for table, column in INDEXES:
        op.drop_index(f"ix_{table}_{column}", table)


def sums(what):
    return ", ".join(
        f"SUM(CASE WHEN c.category = '{category}' THEN c.n_{what} ELSE 0 END) AS {what}_{category}"
        for category in CATEGORIES
    )
