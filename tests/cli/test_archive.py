from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import alembic.command
import pytest
from called import vaeseg

from vaeseg.cli.options import DURATION
from vaeseg.db import migrate
from vaeseg.db.session import sqlite_url, unmigrated_database


def test_an_archive_is_added_listed_shown_and_removed(ward: Path) -> None:
    """JSON for programs, lines for people."""
    root = str(ward / "ward")
    assert vaeseg(ward, "archive", "list").stdout == f"ward  {root}\n"
    listed = json.loads(vaeseg(ward, "archive", "list", "--json").stdout)
    assert listed == [{"name": "ward", "root": root, "label_root": None}]
    assert json.loads(vaeseg(ward, "archive", "show", "ward", "--json").stdout)["n_files"] == 0
    assert vaeseg(ward, "archive", "remove", "ward").exit_code == 0
    assert vaeseg(ward, "archive", "list").stdout == ""
    gone = vaeseg(ward, "archive", "show", "ward")
    assert (gone.exit_code, "no archive ward" in gone.stderr) == (2, True)


def test_archives_that_overlap_are_pointed_out(ward: Path) -> None:
    """Whoever counts findings of both counts some twice."""
    (ward / "ward" / "deep").mkdir()
    result = vaeseg(ward, "archive", "add", "inner", "--root", str(ward / "ward" / "deep"))
    assert (result.exit_code, "inner overlaps with ward: a series that lies in both" in result.stderr) == (0, True)


def test_another_root_under_a_name_is_a_usage_error(ward: Path) -> None:
    """The name stays what it was."""
    result = vaeseg(ward, "archive", "add", "ward", "--root", str(ward))
    assert (result.exit_code, "another root" in result.stderr) == (2, True)


def test_a_scan_of_an_archive_that_nobody_added(ward: Path) -> None:
    """One line that says how to see those there are."""
    result = vaeseg(ward, "scan", "nope")
    assert (result.exit_code, "archive list" in result.stderr) == (2, True)


def test_the_index_alone_is_brought_up_to_date(ward: Path) -> None:
    """Young files wait by default; then headers are read once, and never again."""
    young = json.loads(vaeseg(ward, "scan", "ward", "--index-only", "--json").stdout)
    assert (young["n_listed"], young["n_read"], young["n_waiting"]) == (6, 0, 6)
    options = ("scan", "ward", "--index-only", "--stable-for", "0", "--json")
    assert json.loads(vaeseg(ward, *options).stdout)["n_read"] == 6
    assert json.loads(vaeseg(ward, *options).stdout)["n_read"] == 0
    shown = vaeseg(ward, "archive", "show", "ward").stdout
    assert "files   6, 0 more are missing" in shown
    assert "series  1 readable, 0 refused" in shown
    status = json.loads(vaeseg(ward, "status", "--json").stdout)
    assert [(run["kind"], run["status"]) for run in status] == [("index", "finished")] * 3
    assert status[-1]["files"] == {"found": 6, "in_series": 0, "refused": 0, "waiting": 6}


def test_a_dry_run_of_a_scan_writes_nothing(ward: Path) -> None:
    """It says what would be done; the next scan finds the index as it was."""
    result = vaeseg(ward, "scan", "ward", "--dry-run", "--json")
    assert json.loads(result.stdout)["files"]["found"] == 6
    assert json.loads(vaeseg(ward, "archive", "show", "ward", "--json").stdout)["n_files"] == 0


def test_a_dry_run_says_what_the_scan_would_say(ward: Path) -> None:
    """A study that is still arriving waits; an archive that is away is an error, and was none before it had a file."""
    (ward / "empty").mkdir()
    assert vaeseg(ward, "submit", "--study-dir", str(ward / "empty"), "--dry-run").exit_code == 0
    young = json.loads(vaeseg(ward, "scan", "ward", "--dry-run", "--json").stdout)
    old = json.loads(vaeseg(ward, "scan", "ward", "--stable-for", "0", "--dry-run", "--json").stdout)
    assert [(shown["waiting"], shown["to_skip"]) for shown in (young, old)] == [(1, 0), (0, 1)]
    assert vaeseg(ward, "scan", "ward", "--index-only", "--stable-for", "0").exit_code == 0
    (ward / "ward" / "a").rename(ward / "away")
    away = vaeseg(ward, "scan", "ward", "--dry-run")
    assert (away.exit_code, "mounted" in away.stderr) == (1, True)


def test_a_dry_run_of_a_scan_migrates_nothing(ward: Path) -> None:
    """An older database stays at its revision, and is said to be."""
    with closing(unmigrated_database(sqlite_url(ward / "store" / "results.db"))) as database:
        with database.write() as connection:
            alembic.command.downgrade(migrate._config(connection), "0004")
        result = vaeseg(ward, "scan", "ward", "--dry-run")
        assert (result.exit_code, "vaeseg-batch db upgrade" in result.stderr) == (1, True)
        with database.read() as connection:
            assert migrate.current_revision(connection) == "0004"


def test_a_share_that_is_not_mounted_is_an_error(ward: Path) -> None:
    """Exit code 1, and nothing is taken for deleted."""
    options = ("scan", "ward", "--index-only", "--stable-for", "0")
    assert vaeseg(ward, *options).exit_code == 0
    (ward / "ward" / "a").rename(ward / "away")
    result = vaeseg(ward, *options)
    assert (result.exit_code, "mounted" in result.stderr) == (1, True)
    assert json.loads(vaeseg(ward, "archive", "show", "ward", "--json").stdout)["n_files_missing"] == 0


def test_an_estimate_needs_a_scan(ward: Path) -> None:
    """It names the one; after it, also where all files are too young to be looked at, there is an answer."""
    unknown = vaeseg(ward, "estimate", "--archive", "ward")
    assert (unknown.exit_code, "scan ward --index-only" in unknown.stderr) == (2, True)
    assert vaeseg(ward, "scan", "ward", "--index-only").exit_code == 0
    assert vaeseg(ward, "estimate", "--archive", "ward").exit_code == 0


def test_a_key_that_is_gone_is_not_made_anew(ward: Path) -> None:
    """The scan says what doctor says; the archive is free again, and all is well once the key is back."""
    options = ("scan", "ward", "--index-only", "--stable-for", "0")
    assert vaeseg(ward, *options).exit_code == 0
    key = ward / "store" / "subject.key"
    key.rename(ward / "backup")
    refused = vaeseg(ward, *options)
    assert (refused.exit_code, key.exists(), refused.stderr.count("\n")) == (1, False, 1)
    assert f"{key} is gone, and subjects are recorded under its pseudonyms; put it back" in refused.stderr
    assert f"{key} is gone, and subjects are recorded" in vaeseg(ward, "doctor").stdout
    (ward / "backup").rename(key)
    assert vaeseg(ward, *options).exit_code == 0


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)])
def test_times(text: str, seconds: float) -> None:
    """A number and a unit."""
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "30", "-1m", "nan", "infs", "5 weeks"])
def test_what_is_no_time_is_refused(ward: Path, text: str) -> None:
    """With the forms there are."""
    result = vaeseg(ward, "scan", "ward", f"--stable-for={text}")
    assert (result.exit_code, "30m" in result.stderr) == (2, True)
