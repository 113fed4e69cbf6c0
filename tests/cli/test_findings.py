from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from ledger_factories import ROOT, SUBJECT, Clock, begin_run, failed, scan, segmented, series_row

from vaeseg.cli import main
from vaeseg.cli.findings import COLUMNS, MORE_COLUMNS
from vaeseg.db.archives import add_archive
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.parquet import FINDINGS_SCHEMA
from vaeseg.io.store import Store

UID = "1.2.826.0.1.3680043.8.498.10047289470942309471820947182094712"
KEYS = [f"{UID}.1", f"{UID}.2", f"{UID}.3"]


def _findings(store: Store, *arguments: str, columns: int = 200) -> Result:
    environment = {"VAESEG_DB": "", "VAESEG_STORE": str(store.root), "COLUMNS": str(columns)}
    return CliRunner(env=environment).invoke(main, ["findings", *arguments])


@pytest.fixture(autouse=True)
def run_id(store: Store) -> str:
    """1.5 ml, 20 ml, and one that failed."""
    database = open_database(sqlite_url(store.database_path))
    run_id = begin_run(database, scan(database, [series_row(key) for key in KEYS]))
    one, two, three = plan_work(database, run_id, KEYS).pending
    outcomes = [(one, segmented(one, volume_ml=1.5)), (two, segmented(two, volume_ml=20.0)), (three, failed(three))]
    commit_group(run_id, outcomes, store, database)
    database.close()
    return run_id


def test_json_has_every_agreed_column(store: Store, run_id: str) -> None:
    """In the order of the Parquet data set; NULL where not measured."""
    result = _findings(store, "--order-by", "tumour_volume_ml", "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads(result.stdout)
    assert list(rows[0]) == [*COLUMNS, *MORE_COLUMNS] == [*FINDINGS_SCHEMA.names, *MORE_COLUMNS]
    assert [row["tumour_volume_ml"] for row in rows] == [20.0, 1.5, None]
    assert (rows[2]["outcome"], rows[2]["reason"], rows[2]["run_id"]) == ("failed", "decode_failed", run_id)
    assert _findings(store, "--order-by", "tumour_volume_ml", "--json").stdout == result.stdout


@pytest.mark.parametrize(("columns", "is_shown"), [(60, False), (200, True)])
def test_a_finding_shows_its_warnings(store: Store, columns: int, is_shown: bool) -> None:
    """In every format for people and programs, and which volume it is of; a narrow table counts them at least."""
    rows = json.loads(_findings(store, "--order-by", "tumour_volume_ml", "--json").stdout)
    assert [row["warnings"] for row in rows] == [["gantry_tilt"], ["gantry_tilt"], []]
    assert [row["series_key"] for row in rows] == [KEYS[1], KEYS[0], KEYS[2]]
    assert rows[2]["detail"]
    text = _findings(store, "--order-by", "tumour_volume_ml", "--format", "csv").stdout
    cells = [row["warnings"] for row in csv.DictReader(io.StringIO(text))]
    assert cells == ['["gantry_tilt"]', '["gantry_tilt"]', "[]"]
    table = _findings(store, columns=columns)
    assert "3 findings, 2 with warnings; research" in table.stderr
    assert ("gantry_tilt" in table.stdout) == is_shown


def test_csv_can_be_read_back(store: Store) -> None:
    """An empty cell where not measured."""
    result = _findings(store, "--order-by", "tumour_volume_ml", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["tumour_volume_ml"] for row in rows] == ["20.0", "1.5", ""]
    assert result.stderr == ""


def test_parquet_has_the_schema_of_the_store(store: Store, tmp_path: Path) -> None:
    """So that both can be read as one; also where nothing was found."""
    out = tmp_path / "findings.parquet"
    for least, volumes in (("2", [20.0]), ("100", [])):
        result = _findings(store, "--min-volume-ml", least, "--format", "parquet", "--out", str(out))
        assert (result.exit_code, result.stdout) == (0, "")
        table = pq.read_table(out)
        assert table.schema.equals(FINDINGS_SCHEMA)
        assert table.column("tumour_volume_ml").to_pylist() == volumes


def test_filters_and_limit(store: Store, run_id: str) -> None:
    """By run, by volume, by number."""
    assert len(json.loads(_findings(store, "--min-volume-ml", "2", "--json").stdout)) == 1
    assert len(json.loads(_findings(store, "--limit", "2", "--json").stdout)) == 2
    assert len(json.loads(_findings(store, "--run", run_id, "--json").stdout)) == 3


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_the_table_fits_the_terminal(store: Store, columns: int) -> None:
    """No line is longer than the terminal, and no UID loses a character."""
    result = _findings(store, "--order-by", "tumour_volume_ml", columns=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    first_column = "".join(line.split(" ")[0] for line in lines)
    assert all(key in first_column for key in KEYS)
    assert "20.000" in result.stdout
    assert "3 findings, 2 with warnings; research software, not for clinical use" in result.stderr


def test_what_all_rows_share_is_said_once(store: Store) -> None:
    """Model, archive and day are no columns, they stand below the table."""
    result = _findings(store)
    head = result.stdout.splitlines()[0].split()
    assert head == ["series", "outcome", "tumour", "ml", "lesions", "largest", "ml", "slices", "reason", "warnings"]
    day = json.loads(_findings(store, "--json").stdout)[0]["created_at"][:10]
    assert re.search(rf"^all rows: model phantom-v1, archive archive-[0-9a-f]{{8}}, made {day}$", result.stderr, re.M)


def _measure_again(store: Store, *, root: str, days: int, model: str = "phantom-v1", digest: str = "a" * 64) -> None:
    """The first series is segmented once more, 7 ml, so many days after 22 November 2026."""
    clock = Clock()
    clock.advance(days * 86400)
    database = open_database(sqlite_url(store.database_path), now=clock)
    run_id = begin_run(database, scan(database, [series_row(KEYS[0])], root=root), model=model, digest=digest)
    (item,) = plan_work(database, run_id, KEYS[:1]).pending
    commit_group(run_id, [(item, segmented(item, volume_ml=7.0))], store, database)
    database.close()


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_columns_tell_rows_apart(store: Store, columns: int) -> None:
    """One series by two models, in two archives, on three days; every name and day is whole where there is room."""
    database = open_database(sqlite_url(store.database_path))
    add_archive(database, "ward", ROOT)
    add_archive(database, "trial", "/trial")
    database.close()
    _measure_again(store, root=ROOT, days=1, model="lung-b", digest="b" * 64)
    _measure_again(store, root="/trial", days=2)
    result = _findings(store, "--subject", SUBJECT, "--order-by", "created_at", "--min-volume-ml", "7", columns=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "all rows" not in result.stderr
    if columns >= 80:
        assert lines[0].split()[:5] == ["series", "model", "archive", "made", "outcome"]
        shown = [line.split()[1:4] for line in lines if "segmented" in line]
        assert ["lung-b", "ward", "2026-11-23"] in shown
        assert ["phantom-v1", "trial", "2026-11-24"] in shown
    only = _findings(store, "--model", "lung-b", columns=columns)
    assert "all rows: model lung-b, archive ward, made 2026-11-23\n" in only.stderr


def test_the_day_gives_way_to_the_reason(store: Store) -> None:
    """In 80 characters with rows of two models and days, of which some failed."""
    _measure_again(store, root=ROOT, days=1, model="lung-b", digest="b" * 64)
    wide, narrow = (_findings(store, columns=columns).stdout.splitlines()[0].split() for columns in (120, 80))
    assert wide[:4] == ["series", "model", "made", "outcome"]
    assert narrow == ["series", "model", "outcome", "tumour", "ml", "reason"]


def test_a_table_without_rows_shares_nothing(store: Store) -> None:
    """Headings, and that there are 0."""
    result = _findings(store, "--min-volume-ml", "100")
    assert result.stdout.startswith("series")
    assert result.stderr == "0 findings; research software, not for clinical use\n"


def test_an_unknown_column_names_those_there_are(store: Store) -> None:
    """Exit 2, one line."""
    result = _findings(store, "--order-by", "patient_name")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "patient_name is not one of" in result.stderr
    assert "tumour_volume_ml" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "other"), "this store has nothing segmented by other, only by phantom-v1"),
        (("--subject", "nobody"), "no subject nobody in this store: 'vaeseg-batch findings --json' shows"),
    ],
)
def test_an_unknown_model_or_subject_is_a_usage_error(store: Store, arguments: tuple[str, ...], message: str) -> None:
    """Exit 2, and what there is; those there are may well have nothing that is asked for."""
    result = _findings(store, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    known = _findings(store, "--model", "phantom-v1", "--subject", SUBJECT, "--outcome", "crashed", "--json")
    assert (known.exit_code, known.stdout.strip()) == (0, "[]")


def test_unknown_run_and_missing_store(store: Store) -> None:
    """Exit 2 both, and a question makes no store."""
    assert _findings(store, "--run", "x").exit_code == 2
    gone = store.root / "gone"
    result = CliRunner().invoke(main, ["findings", "--store", str(gone)])
    assert (result.exit_code, gone.exists()) == (2, False)
    result = CliRunner().invoke(main, ["findings", "--db", f"sqlite:///{gone}.db"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_a_damaged_database_is_one_line(store: Store) -> None:
    """Exit 1, the file named, no traceback."""
    store.database_path.write_bytes(b"not a database" * 100)
    result = _findings(store)
    assert result.exit_code == 1
    assert "results.db" in result.stderr
    assert result.stderr.count("\n") == 1


def test_queries_load_neither_torch_nor_ray(store: Store) -> None:
    """A question is answered at once; not even the image readers are needed."""
    code = (
        "import sys\nfrom vaeseg.cli import main\n"
        f"main(['findings', '--json', '--store', {str(store.root)!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'ray', 'pydicom', 'scipy', 'pyarrow'} & set(sys.modules)), file=sys.stderr)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert len(json.loads(finished.stdout)) == 3
    assert finished.stderr.strip() == "[]"


def test_filters_of_time_and_outcome(store: Store) -> None:
    """A day, in UTC; a day that is none is a usage error."""
    assert len(json.loads(_findings(store, "--outcome", "failed", "--json").stdout)) == 1
    assert json.loads(_findings(store, "--until", "2026-01-01", "--json").stdout) == []
    assert len(json.loads(_findings(store, "--since", "2026-01-01T12:00:00", "--json").stdout)) == 3
    assert _findings(store, "--since", "yesterday").exit_code == 2
    assert _findings(store, "--archive", "nowhere").exit_code == 2
