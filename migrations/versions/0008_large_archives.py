"""Indexes by which a scan of an archive of millions of files looks at what it asks for alone.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NEW = (
    ("series", ["series_key"]),
    ("series", ["archive_id", "series_instance_uid"]),
    ("instances", ["archive_id", "directory", "missing_since"]),
    ("findings", ["run_id", "part"]),
)
OLD = (("instances", ["archive_id", "directory"]), ("findings", ["run_id"]))
"""Each is the beginning of a new one."""


def upgrade():
    for table, columns in NEW:
        op.create_index(_name(table, columns), table, columns)
    for table, columns in OLD:
        op.drop_index(_name(table, columns), table)


def downgrade():
    for table, columns in OLD:
        op.create_index(_name(table, columns), table, columns)
    for table, columns in NEW:
        op.drop_index(_name(table, columns), table)


def _name(table, columns):
    return f"ix_{table}_{'_'.join(columns)}"
