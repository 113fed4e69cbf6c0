"""Options that several commands share, and what they lead to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.db.session import Database

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_STORE = Path("vaeseg-store")

NOTICE = "research software, not for clinical use"
"""Goes with every table of results, on stderr."""

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="VAESEG_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    show_envvar=True,
    help="Directory of results.",
)
"""`store: Path`"""

database_option = click.option(
    "--db",
    metavar="URL",
    envvar="VAESEG_DB",
    show_envvar=True,
    help="Database, such as postgresql://user@host/name, instead of SQLite in the store.",
)
"""`db: str | None`"""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
"""`as_json: bool`"""


def store_options(function: Function) -> Function:
    """Add --store and --db."""
    return store_option(database_option(function))


def opened_for_query(store: Path, db: str | None) -> AbstractContextManager[Database]:
    """The database of a store that must exist: a question makes nothing.

    Raises:
        UsageError: no such store, or not a database URL.
        StoreError: the database cannot be opened.
    """
    from vaeseg.db.session import open_database, sqlite_url
    from vaeseg.io.store import existing_store

    if db:
        return closing(open_database(db, create=False))
    return closing(open_database(sqlite_url(existing_store(store).database_path), create=False))


def check_choice(option: str, value: str, choices: list[str]) -> None:
    """Refuse a value outside a closed list, naming the list.

    Raises:
        UsageError: it is not in the list.
    """
    if value not in choices:
        raise UsageError(f"{option} {value} is not one of {', '.join(choices)}")
