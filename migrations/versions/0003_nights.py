"""Rules that leave series out, schedules, what became of everything in a run, and who did what.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
MOMENT = sa.DateTime(timezone=True)
CATEGORIES = ("segmented", "left_out_by_rule", "refused", "failed", "crashed", "pending", "waiting")


def upgrade():
    op.add_column("series", sa.Column("study_date", sa.Date))
    op.add_column("events", sa.Column("actor", sa.Text))
    op.add_column("events", sa.Column("n_rows", sa.Integer))
    create_exclusions()
    create_run_coverage()
    create_schedules()


def downgrade():
    op.drop_table("schedules")
    op.drop_table("run_coverage")
    op.drop_table("exclusions")
    op.drop_column("events", "n_rows")
    op.drop_column("events", "actor")
    op.drop_column("series", "study_date")


def required(name, kind=sa.Text):
    return sa.Column(name, kind, nullable=False)


def reference(table, column, target):
    referred = target.split(".")[0]
    return sa.ForeignKeyConstraint([column], [target], name=f"fk_{table}_{column}_{referred}")


def create_exclusions():
    op.create_table(
        "exclusions",
        required("series_id", BIG_KEY),
        required("rules_digest"),
        required("fingerprint"),
        required("rule"),
        required("detail"),
        required("run_id"),
        required("created_at", MOMENT),
        sa.PrimaryKeyConstraint("series_id", "rules_digest", name="pk_exclusions"),
        reference("exclusions", "series_id", "series.id"),
        reference("exclusions", "run_id", "runs.id"),
    )
    op.create_index("ix_exclusions_run_id", "exclusions", ["run_id"])


def create_run_coverage():
    listed = ", ".join(f"'{category}'" for category in CATEGORIES)
    op.create_table(
        "run_coverage",
        required("run_id"),
        required("category"),
        required("reason"),
        required("n_series", sa.Integer),
        required("n_files", sa.Integer),
        sa.PrimaryKeyConstraint("run_id", "category", "reason", name="pk_run_coverage"),
        sa.CheckConstraint(f"category IN ({listed})", name=op.f("ck_run_coverage_category")),
        reference("run_coverage", "run_id", "runs.id"),
    )


def create_schedules():
    op.create_table(
        "schedules",
        required("id", BIG_KEY),
        required("name"),
        required("archive_id", BIG_KEY),
        required("cron"),
        required("timezone"),
        sa.Column("window", sa.Text),
        required("options", JSON),
        required("created_at", MOMENT),
        required("handled_until", MOMENT),
        sa.Column("last_run_id", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.UniqueConstraint("name", name="uq_schedules_name"),
        reference("schedules", "archive_id", "archives.id"),
        reference("schedules", "last_run_id", "runs.id"),
    )
