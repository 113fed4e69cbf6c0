"""`vaeseg-batch db`: the schema of the database, and whether it is whole."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import database_url, json_option, opened_for_query, store_options
from vaeseg.errors import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.group()
def command() -> None:
    """Look after the database.

    Other commands bring it up to date by themselves when they use it; on PostgreSQL only its owner can.
    """


@command.command()
@store_options
def upgrade(store: AnyPath, db: str | None) -> None:
    """Bring the database to the revision of this version.

    Exit codes: 0 it is, 1 it cannot be, or is newer than this version, 2 no such store.
    """
    from vaeseg.db.migrate import revisions
    from vaeseg.db.session import unmigrated_database

    with closing(unmigrated_database(database_url(store, db), create=False)) as database, database.read() as connection:
        before, _ = revisions(connection)
    with opened_for_query(store, db) as database, database.read() as connection:
        after, _ = revisions(connection)
    print(f"revision {after}" + (f", was {before or 'empty'}" if before != after else ", as it was"))


@command.command()
@store_options
@json_option
def current(store: AnyPath, db: str | None, as_json: bool) -> None:
    """Show the revision of the database, and the one of this version; nothing is changed."""
    from vaeseg.db.migrate import revisions
    from vaeseg.db.session import unmigrated_database

    with closing(unmigrated_database(database_url(store, db), create=False)) as database, database.read() as connection:
        of_database, of_version = revisions(connection)
    if as_json:
        print(json.dumps({"database": of_database, "version": of_version}))
    else:
        print(f"database {of_database or 'empty'}, this version {of_version}")


@command.command()
@store_options
@json_option
@click.pass_context
def check(ctx: click.Context, /, store: AnyPath, db: str | None, as_json: bool) -> None:
    """Say whether the schema is that of this version, and whether the database is whole; nothing is changed.

    On SQLite the whole file is read, and every reference between rows is followed.

    Exit codes: 0 it is, 1 it is not (each difference is named) or cannot be read, 2 no such store.
    """
    from vaeseg.db.check import differences
    from vaeseg.db.session import unmigrated_database

    with closing(unmigrated_database(database_url(store, db), create=False)) as database:
        found = differences(database)
    if as_json:
        print(json.dumps({"sound": not found, "differences": found}))
    else:
        for line in found or ["the schema is that of this version, and the database is whole"]:
            print(line)
    ctx.exit(EXIT_ERROR if found else EXIT_OK)


@command.command()
def roles() -> None:
    """Print the SQL that makes the roles vaeseg_reader and vaeseg_writer on PostgreSQL.

    \b
        vaeseg-batch db roles | psql postgresql://owner@host/name
    """
    from vaeseg.db.migrate import roles_script

    print(roles_script(), end="")
