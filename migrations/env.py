"""Alembic's entry: runs migrations on the connection that `vaeseg.db.migrate` hands over, inside its transaction.

Developers make new revisions with ``alembic -c migrations/alembic.ini revision``; users never call Alembic.
"""

from alembic import context
from sqlalchemy import create_engine

from vaeseg.db.tables import Base


def run(connection):
    """Run what was asked for on an open connection."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine(context.config.get_main_option("sqlalchemy.url")).begin() as own:
        run(own)
