from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from vaeseg.cli import main
from vaeseg.db.location import url_from_environment
from vaeseg.errors import UsageError

URL = "postgresql://writer:s3cret@192.0.2.1/vaeseg"


@pytest.fixture
def url_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What $VAESEG_DB_FILE names; $VAESEG_DB is empty."""
    path = tmp_path / "database-url"
    path.write_text(URL + "\n")
    monkeypatch.setenv("VAESEG_DB", "")
    monkeypatch.setenv("VAESEG_DB_FILE", str(path))
    return path


def test_the_url_is_read_from_a_file(url_file: Path) -> None:
    """Without the end of its line."""
    assert url_from_environment() == URL


def test_a_url_in_the_environment_goes_before_a_file(url_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not read then."""
    url_file.unlink()
    monkeypatch.setenv("VAESEG_DB", "sqlite:///other.db")
    assert url_from_environment() == "sqlite:///other.db"


def test_with_neither_there_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite in the store is meant."""
    monkeypatch.setenv("VAESEG_DB", "")
    monkeypatch.setenv("VAESEG_DB_FILE", "")
    assert url_from_environment() is None


@pytest.mark.parametrize("content", [None, b"", b"\n ", b"\xff\xfe"])
def test_a_file_without_a_url_is_refused(url_file: Path, content: bytes | None) -> None:
    """A missing secret must not become a new SQLite database; neither path nor content is shown."""
    url_file.unlink() if content is None else url_file.write_bytes(content)
    with pytest.raises(UsageError, match=r"^the file of \$VAESEG_DB_FILE (cannot be read|is empty)") as raised:
        url_from_environment()
    assert str(url_file) not in str(raised.value)


def test_commands_take_the_file_as_their_database(url_file: Path, tmp_path: Path) -> None:
    """And one that is gone is wrong usage, also where SQLite in the store would do."""
    database = tmp_path / "elsewhere.db"
    database.touch()
    url_file.write_text(f"sqlite:///{database}\n")
    upgraded = CliRunner().invoke(main, ["db", "upgrade", "--store", str(tmp_path)])
    assert (upgraded.exit_code, database.stat().st_size > 0) == (0, True)
    url_file.unlink()
    lost = CliRunner().invoke(main, ["db", "current", "--store", str(tmp_path)])
    assert (lost.exit_code, lost.stderr) == (
        2,
        "vaeseg-batch: the file of $VAESEG_DB_FILE cannot be read: No such file or directory\n",
    )
