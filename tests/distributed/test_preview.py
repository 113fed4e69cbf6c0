"""What a dry run leaves as it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import alembic.command
import pytest
from sqlalchemy import inspect

from vaeseg.config import RunConfig
from vaeseg.db import migrate as migrate_module
from vaeseg.db.migrate import current_revision
from vaeseg.db.session import Database, unmigrated_database
from vaeseg.distributed import submit as submit_module
from vaeseg.distributed.submit import Submission, preview
from vaeseg.errors import StoreError


@pytest.fixture
def submission(database_url: str, tmp_path: Path) -> Submission:
    """Of a directory without anything in it."""
    (tmp_path / "study").mkdir()
    config = RunConfig(model_path="phantom-v1")
    return Submission(
        study_dir=tmp_path / "study",
        store_root=tmp_path / "store",
        database_url=database_url,
        model="phantom-v1",
        config=config,
    )


def test_an_older_database_is_left_at_its_revision(
    submission: Submission, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how to bring it up to date, before it has read the headers of an archive."""
    with database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), "0004")
    monkeypatch.delattr(submit_module, "scan_archive")
    with pytest.raises(StoreError, match=r"at revision 0004.*vaeseg-batch db upgrade"):
        preview(submission)
    with database.read() as connection:
        assert current_revision(connection) == "0004"


def test_a_database_without_tables_stays_without(submission: Submission, database_url: str) -> None:
    """As it is before the first run: nothing is known, nothing is made."""
    with closing(unmigrated_database(database_url)) as database:
        with database.read():
            pass  # SQLite makes its file now
        assert preview(submission).already_done == 0
        with database.read() as connection:
            assert inspect(connection).get_table_names() == []
