"""Fixtures that several parts share; its being here also lets tests import `ledger_factories`."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from called import InThisProcess, with_descriptors
from ledger_factories import Clock
from object_store import credentials, make_bucket, s3_server
from postgres import DatabasesOfTests, start_server

from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.io.store import DATABASE_NAME, Store, create_store
from vaeseg.remote import RemotePath

os.environ.update(credentials())  # before a Ray starts, whose workers inherit them

POSTGRES = os.environ.get("VAESEG_TEST_POSTGRES")
"""URL of a PostgreSQL database that tests may empty, instead of one started for them; databases are made beside it."""


LONGEST = (
    "cluster/test_runs_on_a_cluster.py",
    "integration/test_kills.py",
    "integration/test_command_line.py",
    "distributed/test_ray_train.py",
)
"""Files that begin first, so that no process waits for the other at the end."""


BESIDE_ONE_DATABASE = {"postgresql", "object store"}
"""Not combined: what an object store does is the same beside either database, and its server is slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not set(_parameters(item)) >= BESIDE_ONE_DATABASE]
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))


def _parameters(item: pytest.Item) -> list[str]:
    parameters = getattr(item, "callspec", None)
    return [value for value in parameters.params.values() if isinstance(value, str)] if parameters else []


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


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray that everything in this process uses: starting one takes longer than most of what tests do with it."""
    import local_rays  # imports Ray, which most tests do without

    with local_rays.shared():
        yield


@pytest.fixture
def in_this_process(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> InThisProcess:
    """Calls commands, for what a process of its own would show nothing more of."""
    monkeypatch.setenv("VAESEG_DB", "")
    return partial(with_descriptors, capfd)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Endpoint of an S3 server that ends with the tests."""
    with s3_server() as server:
        yield server.endpoint


@pytest.fixture
def bucket(s3: str) -> RemotePath:
    """An empty bucket, as a URL that names its server."""
    return make_bucket(s3, f"bucket-{secrets.token_hex(8)}")


@pytest.fixture(params=["directory", "object store"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of either kind."""
    return create_store(tmp_path / "store" if request.param == "directory" else request.getfixturevalue("bucket"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[DatabasesOfTests]:
    """A PostgreSQL that ends with the tests, or the one given; each process of pytest has a database of its own."""
    name = f"vaeseg_test_{os.environ.get('PYTEST_XDIST_WORKER', 'only')}"
    if POSTGRES:
        yield DatabasesOfTests(POSTGRES, name)
        return
    # not below pytest's own directory, which a second pytest closes to the server's account when it starts
    with TemporaryDirectory(prefix="vaeseg-postgres-") as directory:
        Path(directory).chmod(0o755)
        server = start_server(Path(directory))
        yield DatabasesOfTests(server.get_uri(), name)
        server.cleanup()


@pytest.fixture
def postgres_url(postgres: DatabasesOfTests) -> str:
    """URL of a PostgreSQL database that tests may empty."""
    return postgres.url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database at the newest revision, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "results.db"
    open_database(sqlite_url(path)).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database; where a test asks for `database` too, of one at the newest revision."""
    is_migrated = "database" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "store" / DATABASE_NAME
        path.parent.mkdir(exist_ok=True)
        if is_migrated:
            shutil.copy(request.getfixturevalue("migrated_file"), path)
        return sqlite_url(path)
    postgres: DatabasesOfTests = request.getfixturevalue("postgres")
    (postgres.migrated if is_migrated else postgres.empty)()
    return postgres.url


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    opened = open_database(database_url, now=clock)
    yield opened
    opened.close()
