"""Fixtures that several parts share; its being here also lets tests import `ledger_factories`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_factories import Clock
from sqlalchemy import create_engine, text

from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.io.store import Store, create_store

POSTGRES = os.environ.get("VAESEG_TEST_POSTGRES")
"""URL of a PostgreSQL database that tests may empty; without it they run on SQLite alone."""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch, here and in child processes: a second only waits for the first in tiny networks.

    Of the module, so that what its own fixtures train has one thread too.
    """
    import torch  # most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store")


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def database_url(request: pytest.FixtureRequest, store: Store) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(store.database_path)
    assert POSTGRES is not None
    engine = create_engine(POSTGRES.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return POSTGRES


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    opened = open_database(database_url, now=clock)
    yield opened
    opened.close()
