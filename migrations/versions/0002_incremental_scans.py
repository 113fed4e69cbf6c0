"""Incremental scans: what a file said is kept, so that it is opened again only when it changes.

Rows of `instances` are dropped: an older scan did not keep what the files said. The next scan makes them anew.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade():
    op.add_column("archives", sa.Column("label_root", sa.Text))
    op.add_column("archives", sa.Column("held_by", sa.Text))
    op.add_column("archives", sa.Column("removed_at", MOMENT))
    op.add_column("series", sa.Column("group_key", sa.Text, nullable=False, server_default=""))
    op.add_column("series", sa.Column("missing_since", MOMENT))
    op.execute("ALTER TABLE series RENAME COLUMN last_seen_at TO judged_at")
    op.execute("UPDATE series SET missing_since = judged_at")  # until the next scan finds it
    op.create_index("ix_series_archive_id_group_key", "series", ["archive_id", "group_key"])
    op.create_index("ix_series_archive_id_fingerprint", "series", ["archive_id", "fingerprint"])
    op.add_column("runs", sa.Column("files_waiting", sa.Integer))
    op.add_column("runs", sa.Column("driver", sa.Text))
    op.add_column("runs", sa.Column("cancel_requested_at", MOMENT))
    op.drop_table("instances")
    create_instances()
    op.create_table(
        "changed_groups",
        sa.Column("archive_id", BIG_KEY, nullable=False),
        sa.Column("group_key", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("archive_id", "group_key", name="pk_changed_groups"),
        reference("changed_groups", "archive_id", "archives.id"),
    )


def downgrade():
    op.drop_table("changed_groups")
    op.drop_table("instances")
    create_old_instances()
    op.drop_column("runs", "cancel_requested_at")
    op.drop_column("runs", "driver")
    op.drop_column("runs", "files_waiting")
    op.drop_index("ix_series_archive_id_fingerprint", "series")
    op.drop_index("ix_series_archive_id_group_key", "series")
    op.execute("ALTER TABLE series RENAME COLUMN judged_at TO last_seen_at")
    op.drop_column("series", "missing_since")
    op.drop_column("series", "group_key")
    op.drop_column("archives", "removed_at")
    op.drop_column("archives", "held_by")
    op.drop_column("archives", "label_root")


def reference(table, column, target):
    referred = target.split(".")[0]
    return sa.ForeignKeyConstraint([column], [target], name=f"fk_{table}_{column}_{referred}")


def create_instances():
    op.create_table(
        "instances",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("archive_id", BIG_KEY, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("directory", sa.Text, nullable=False),
        sa.Column("size", BIG_KEY, nullable=False),
        sa.Column("mtime_ns", BIG_KEY, nullable=False),
        sa.Column("sop_instance_uid", sa.Text),
        sa.Column("group_key", sa.Text),
        sa.Column("header", sa.Text),
        sa.Column("is_damaged", sa.Boolean, nullable=False),
        sa.Column("reader_version", sa.Integer, nullable=False),
        sa.Column("series_id", BIG_KEY),
        sa.Column("reason", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("missing_since", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("archive_id", "path", name="uq_instances_archive_id_path"),
        sa.CheckConstraint("(group_key IS NULL) = (reason IS NOT NULL)", name=op.f("ck_instances_in_group_or_refused")),
        sa.CheckConstraint("series_id IS NULL OR reason IS NULL", name=op.f("ck_instances_in_series_or_refused")),
        reference("instances", "archive_id", "archives.id"),
        reference("instances", "series_id", "series.id"),
    )
    op.create_index("ix_instances_series_id", "instances", ["series_id"])
    op.create_index("ix_instances_archive_id_directory", "instances", ["archive_id", "directory"])
    op.create_index("ix_instances_archive_id_group_key", "instances", ["archive_id", "group_key"])


def create_old_instances():
    op.create_table(
        "instances",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("archive_id", BIG_KEY, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", BIG_KEY, nullable=False),
        sa.Column("mtime_ns", BIG_KEY, nullable=False),
        sa.Column("sop_instance_uid", sa.Text),
        sa.Column("series_id", BIG_KEY),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("archive_id", "path", name="uq_instances_archive_id_path"),
        sa.CheckConstraint("(series_id IS NULL) = (reason IS NOT NULL)", name=op.f("ck_instances_in_series_or_refused")),
        reference("instances", "archive_id", "archives.id"),
        reference("instances", "series_id", "series.id"),
    )
    op.create_index("ix_instances_series_id", "instances", ["series_id"])
