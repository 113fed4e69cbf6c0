"""Events are only added: the database itself refuses to change or delete them.

On PostgreSQL the owner of the table could still drop the trigger, so that whoever writes the ledger should not own it.
A later migration that rebuilds `events` on SQLite has to make these triggers again.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

REFUSAL = "events are only added, never changed or deleted"

SQLITE = {
    "events_no_update": "BEFORE UPDATE ON events",
    "events_no_delete": "BEFORE DELETE ON events",
    # INSERT OR REPLACE deletes the row that was there without a word to the trigger above
    "events_no_replace": "BEFORE INSERT ON events WHEN EXISTS (SELECT 1 FROM events WHERE id = NEW.id)",
}


def upgrade():
    if op.get_bind().dialect.name == "sqlite":
        for name, moment in SQLITE.items():
            op.execute(f"CREATE TRIGGER {name} {moment} BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END")
        return
    op.execute(
        "CREATE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events()"
    )


def downgrade():
    if op.get_bind().dialect.name == "sqlite":
        for name in SQLITE:
            op.execute(f"DROP TRIGGER {name}")
        return
    op.execute("DROP TRIGGER events_append_only ON events")
    op.execute("DROP FUNCTION refuse_change_of_events()")
