"""Options that several commands share, and what they lead to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaeseg.db.location import url_from_environment
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.db.session import Database
    from vaeseg.paths import AnyPath

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_STORE = Path("vaeseg-store")

DURATION_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """A number with a unit (``90s``, ``30m``, ``2h``, ``1d``) or 0; seconds."""

    name = "duration"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For --help."""
        return "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """To seconds."""
        text = str(value)
        try:
            number = float(text[:-1] if text[-1:] in DURATION_UNITS else text)
        except ValueError:
            number = -1.0
        if (text[-1:] not in DURATION_UNITS and number != 0) or not 0 <= number < float("inf"):
            self.fail(f"{text} is not a time such as 90s, 30m, 2h or 1d")
        return number * DURATION_UNITS.get(text[-1:], 0.0)


DURATION = Duration()

DAYTIME = re.compile(r"\d\d:\d\d")


class Deadline(click.ParamType[datetime]):
    """A time of day on this machine's clock (``07:00``), the next there is, or a moment in ISO 8601 with an offset."""

    name = "deadline"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For --help."""
        return "HH:MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """To an aware moment."""
        try:
            if DAYTIME.fullmatch(str(value)):
                return _next_daytime(time.fromisoformat(str(value)), datetime.now().astimezone())
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value} is not a time such as 07:00 or 2026-11-22T07:00+01:00")
        if moment.tzinfo is None:
            self.fail(f"{value} is without a time zone: add its offset from UTC, as in 2026-11-22T07:00+01:00")
        return moment


def _next_daytime(daytime: time, now: datetime) -> datetime:
    days = (datetime.combine(now.date() + timedelta(days=n), daytime).astimezone() for n in (0, 1))
    return next(moment for moment in days if moment > now)


DEADLINE = Deadline()


class Workers(click.ParamType[tuple[int, int]]):
    """How many processes: a number, or the fewest and the most as ``MIN:MAX``."""

    name = "workers"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For --help."""
        return "N|MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """To the fewest and the most."""
        fewest, _, most = str(value).partition(":")
        try:
            numbers = int(fewest), int(most or fewest)
        except ValueError:
            numbers = 0, 0
        if not 1 <= numbers[0] <= numbers[1]:
            self.fail(f"{value} is neither N nor MIN:MAX with 1 <= MIN <= MAX")
        return numbers


WORKERS = Workers()


class Directory(click.ParamType[Any]):
    """A directory, as a path or as a URL of an object store."""

    name = "directory"

    def __init__(self, *, exists: bool = False) -> None:
        self._exists = exists

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For --help."""
        return "DIR|URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AnyPath:
        """To a path that may be opened."""
        from vaeseg.paths import any_path

        if isinstance(value, str) and "://" in value:
            place = any_path(value)
            if self._exists and not place.is_dir():
                self.fail(f"Directory '{value}' does not exist.", param, ctx)
            return place
        local = click.Path(exists=self._exists, file_okay=False, path_type=Path)
        return value if not isinstance(value, str | Path) else local.convert(value, param, ctx)


DIRECTORY = Directory(exists=True)


NOTICE = "research software, not for clinical use"
"""Goes with every table of results, on stderr."""

store_option = click.option(
    "--store",
    type=Directory(),
    envvar="VAESEG_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    show_envvar=True,
    help="Where results are kept.",
)
"""`store: AnyPath`"""

database_option = click.option(
    "--db",
    metavar="URL",
    default=url_from_environment,
    help="Database, such as postgresql://user@host/name, instead of SQLite in the store; without it $VAESEG_DB, or the "
    "content of the file $VAESEG_DB_FILE.",
)
"""`db: str | None`"""

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="What the model computes in: auto takes bfloat16 where the hardware has it; masks of fp32 are alike on all.",
)
"""`precision: Precision`"""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
"""`as_json: bool`"""

address_option = click.option(
    "--address",
    metavar="ADDRESS",
    envvar=["VAESEG_ADDRESS", "RAY_ADDRESS"],
    show_envvar=True,
    help="Ray cluster: http://HOST:8265 to submit a job to it, HOST:PORT to drive it from one of its nodes; without "
    "it, a Ray of its own.",
)
"""`address: str | None`"""

jobs_address_option = click.option(
    "--address",
    metavar="http://HOST:PORT",
    help="Ray cluster to submit this to as a job; otherwise it is done here.",
)
"""`address: str | None`"""

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="For the end of a job; it goes on without you either way."
)
"""`wait: bool`"""


def store_options(function: Function) -> Function:
    """Add --store and --db."""
    return store_option(database_option(function))


def opened_for_query(store: AnyPath, db: str | None) -> AbstractContextManager[Database]:
    """The database of a store that must exist: a question makes nothing.

    Raises:
        UsageError: no such store, or not a database URL.
        StoreError: the database cannot be opened.
    """
    from vaeseg.db.session import open_database

    return closing(open_database(database_url(store, db), create=False))


@contextmanager
def opened_to_watch(store: AnyPath, db: str | None) -> Iterator[Database]:
    """The database of a store that must exist, as it is: nothing is migrated.

    Raises:
        UsageError: no such store, or not a database URL.
        StoreError: the database cannot be opened, or is not at the revision of this version.
    """
    from vaeseg.db.migrate import check_revision
    from vaeseg.db.session import unmigrated_database

    with closing(unmigrated_database(database_url(store, db), create=False)) as database:
        with database.read() as connection:
            check_revision(connection)
        yield database


def database_url(store: AnyPath, db: str | None) -> str:
    """Where the database of a store is, which must exist unless a database is named.

    Raises:
        UsageError: no such store.
    """
    from vaeseg.db.session import sqlite_url
    from vaeseg.io.store import existing_store

    return db or sqlite_url(existing_store(store).database_path)


def made_database_url(store: AnyPath, db: str | None) -> str:
    """Where the database of a store is; the store is made if need be.

    Raises:
        StoreError: it cannot be made.
    """
    from vaeseg.db.session import sqlite_url
    from vaeseg.io.store import create_store

    return db or sqlite_url(create_store(store).database_path)


def directory_for_training(store: AnyPath, name: str) -> Path:
    """The store of a training, which writes its state and its curves as it goes.

    Raises:
        UsageError: it is in an object store.
    """
    if not isinstance(store, Path):
        take = f"vaeseg-batch model import FILE --name {name} --store {store}"
        raise UsageError(f"a training writes to a directory: give one with --store, then '{take}'")
    return store.absolute()


def show_submitted(run_id: str, as_json: bool) -> None:
    """Tell of a run that a cluster executes and nobody waits for."""
    if as_json:
        print(json.dumps({"run_id": run_id, "status": "submitted"}))
    else:
        print(f"run {run_id} submitted; 'vaeseg-batch logs {run_id} --follow' shows how it goes")


def check_choice(option: str, value: str, choices: list[str]) -> None:
    """Refuse a value outside a closed list, naming the list.

    Raises:
        UsageError: it is not in the list.
    """
    if value not in choices:
        raise UsageError(f"{option} {value} is not one of {', '.join(choices)}")
