from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result
from ledger_factories import begin_run, failed, scan, segmented, series_row

from vaeseg.cli import main
from vaeseg.cli.output import _json, plain_value
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store

BOTH = "SELECT series_instance_uid AS uid, tumour_volume_ml AS ml, warnings FROM latest_findings ORDER BY 1"


def query(store: Store, *arguments: str, columns: int = 100) -> Result:
    environment = {"VAESEG_DB": "", "VAESEG_STORE": str(store.root), "COLUMNS": str(columns)}
    return CliRunner(env=environment).invoke(main, ["query", *arguments])


@pytest.fixture(autouse=True)
def findings(store: Store) -> None:
    """One of 1.5 ml, and one that failed."""
    database = open_database(sqlite_url(store.database_path))
    run_id = begin_run(database, scan(database, [series_row("1.2.1"), series_row("1.2.2")]))
    one, two = plan_work(database, run_id, ["1.2.1", "1.2.2"]).pending
    commit_group(run_id, [(one, segmented(one, volume_ml=1.5)), (two, failed(two))], store, database)
    database.close()


def test_a_table_csv_and_json_of_one_answer(store: Store) -> None:
    """NULL is an empty cell, and null."""
    table = query(store, "SELECT series_instance_uid AS uid, tumour_volume_ml AS ml FROM latest_findings ORDER BY 1")
    assert table.stdout == "uid     ml\n1.2.1  1.5\n1.2.2\n"
    assert table.stderr == "2 rows; research software, not for clinical use\n"
    as_json = query(store, BOTH, "--json")
    assert (as_json.exit_code, as_json.stderr) == (0, "")
    assert [(row["uid"], row["ml"]) for row in json.loads(as_json.stdout)] == [("1.2.1", 1.5), ("1.2.2", None)]
    as_csv = query(store, BOTH, "--format", "csv")
    assert [row["ml"] for row in csv.DictReader(io.StringIO(as_csv.stdout))] == ["1.5", ""]


def test_a_wide_answer_is_shown_one_value_a_line(store: Store) -> None:
    """Nothing is cut off and no line is longer than what it holds."""
    shown = query(store, "SELECT * FROM latest_findings WHERE outcome = 'failed'", columns=60)
    lines = shown.stdout.splitlines()
    assert lines[0] == "-- 1"
    assert "series_instance_uid   1.2.2" in lines
    assert "tumour_volume_ml" in lines


def test_text_from_the_database_cannot_steer_the_terminal(store: Store) -> None:
    """Control characters are shown as spaces, and brackets are no markup."""
    shown = query(store, "SELECT char(27) || '[2J [red]' || char(10) || '[/]' AS x")
    assert shown.stdout == "x\n [2J [red] [/]\n"


def test_exact_decimals_are_numbers() -> None:
    """PostgreSQL sums to such; what is not finite is null in JSON."""
    values = [Decimal("21.000"), Decimal("2.5"), Decimal("Infinity"), Decimal("NaN")]
    assert [plain_value(value) for value in values[:2]] == [21, 2.5]
    assert json.loads(_json(["a", "b", "c", "d"], [values])) == [{"a": 21, "b": 2.5, "c": None, "d": None}]


def test_an_answer_that_was_cut_off_says_so(store: Store) -> None:
    """On stderr, also with JSON."""
    result = query(store, BOTH, "--limit", "1", "--json")
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr == "only the first 1 rows; --limit asks for more\n"
    assert query(store, BOTH, "--limit", "2", "--json").stderr == ""


def test_a_file_instead_of_stdout(store: Store, tmp_path: Path) -> None:
    """Parquet keeps numbers and NULL; a file that is there is replaced."""
    out = tmp_path / "answer.parquet"
    out.write_text("older")
    result = query(store, BOTH, "--format", "parquet", "--out", str(out))
    assert (result.exit_code, result.stdout) == (0, "")
    assert duckdb.sql(f"SELECT uid, ml FROM '{out}'").fetchall() == [("1.2.1", 1.5), ("1.2.2", None)]
    assert query(store, BOTH, "--format", "csv", "--out", str(out)).exit_code == 0
    assert out.read_text().startswith("uid,ml,warnings\n1.2.1,1.5,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELECT 1", "--format", "parquet"], "needs --out"),
        (["SELECT 1", "--out", "x.csv"], "--out goes with"),
        (["SELECT 1", "--format", "csv", "--out", "/no/such/directory/x.csv"], "no directory"),
        (["SELECT 1 AS a UNION ALL SELECT 'x'", "--format", "parquet", "--out", "x.parquet"], "column a"),
        (["SELECT 1", "--timeout", "0"], "--timeout 0"),
        (["SELECT 1", "--limit", "0"], "--limit"),
        (["DELETE FROM findings"], "one SELECT"),
        (["SELECT path FROM instances"], "paths are not shown"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """Exit 2, nothing on stdout, no file."""
    monkeypatch.chdir(tmp_path)
    result = query(store, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not list(tmp_path.glob("x.*"))


def test_time_that_is_up_is_an_error(store: Store) -> None:
    """Exit 1, one line."""
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    result = query(store, endless, "--timeout", "0.2s")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no answer within 0.2 s" in result.stderr
