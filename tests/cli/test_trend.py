from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from ledger_factories import SUBJECT, begin_run, failed, scan, segmented, series_row
from PIL import Image

from vaeseg.cli import main
from vaeseg.cli.trend_chart import HEIGHT, WIDTH, lines_of, save_chart, text_chart
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.trends import TrendRow
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store

OTHER = "6" * 16
DAYS = [date(2026, 1, 1), date(2026, 3, 2), None]


def trend(store: Store, *arguments: str) -> Result:
    return CliRunner(env={"VAESEG_DB": "", "VAESEG_STORE": str(store.root)}).invoke(main, ["trend", *arguments])


@pytest.fixture(autouse=True)
def studies(store: Store) -> None:
    """1 ml, 4 ml sixty days later, 2 ml without a date; and a subject whose only series failed."""
    rows = [series_row(f"1.{n}.1", study_instance_uid=f"1.{n}", study_date=day) for n, day in enumerate(DAYS)]
    rows.append(series_row("1.9.1", study_instance_uid="1.9", subject_key=OTHER))
    database = open_database(sqlite_url(store.database_path))
    run_id = begin_run(database, scan(database, rows))
    *items, last = plan_work(database, run_id, [row.series_key for row in rows]).pending
    outcomes = [(item, segmented(item, volume_ml=ml)) for item, ml in zip(items, (1.0, 4.0, 2.0), strict=True)]
    commit_group(run_id, [*outcomes, (last, failed(last))], store, database)
    database.close()


def test_volumes_changes_and_doubling_time(store: Store) -> None:
    """Two doublings in 60 days; the study without a date is listed last."""
    result = trend(store, SUBJECT)
    lines = [line.split() for line in result.stdout.splitlines()[2:5]]
    assert lines == [
        ["2026-01-01", "0", "1.00", "-", "-", "first_study", "2", "gantry_tilt"],
        ["2026-03-02", "60", "4.00", "+3.00", "+300", "30", "2", "gantry_tilt"],
        ["-", "-", "2.00", "-", "-", "undated", "2", "gantry_tilt"],
    ]
    assert "not for clinical use" in result.stderr
    rows = json.loads(trend(store, SUBJECT, "--json").stdout)
    assert [row["study_date"] for row in rows] == ["2026-01-01", "2026-03-02", None]
    assert rows[1]["volume_doubling_days"] == pytest.approx(30.0)
    assert rows[1]["warnings"] == ["gantry_tilt"]


def test_the_chart_is_to_scale(store: Store) -> None:
    """The first study at a quarter of the height on the left, the second at the top on the right."""
    drawn = trend(store, SUBJECT).stdout.splitlines()[5:]
    chart = [line.partition("|")[2] for line in drawn if "|" in line]
    assert len(chart) == HEIGHT + 1
    assert chart[0] == " " * WIDTH + "*"
    assert chart[HEIGHT - HEIGHT // 4] == "*"
    assert "".join(chart).count("*") == 2
    assert drawn[-1].split() == ["2026-01-01", "2026-03-02"]


def test_a_chart_needs_two_days() -> None:
    """No study, one study, two of one day, none with a date; volumes of 0 alone are a line at the bottom."""
    row = dict.fromkeys(TrendRow.__dataclass_fields__) | {"tumour_volume_ml": 0.0}
    of_day = [TrendRow(**row | {"study_date": day}) for day in (*DAYS, date(2026, 1, 1))]  # type: ignore[arg-type]
    for rows in ([], of_day[:1], [of_day[0], of_day[3]], [of_day[2]]):
        assert text_chart(rows) == []
    assert text_chart(of_day[:2])[HEIGHT].count("*") == 2


def test_what_is_not_compared_is_not_joined() -> None:
    """The other study of a day is no point; a new file of the model begins a new line."""
    row = dict.fromkeys(TrendRow.__dataclass_fields__)
    told = [(DAYS[0], 10.0, "first_study"), (DAYS[0], 0.0, "same_day"), (DAYS[1], 20.0, "other_model")]
    rows = [
        TrendRow(**row | {"study_date": day, "tumour_volume_ml": ml, "doubling_reason": reason})  # type: ignore[arg-type]
        for day, ml, reason in told
    ]
    assert lines_of(rows) == [[(DAYS[0], 10.0)], [(DAYS[1], 20.0)]]
    assert "".join(text_chart(rows)).count("*") == 2


def test_the_chart_as_png(store: Store, tmp_path: Path) -> None:
    """A drawing with something on it, also of a subject of whom there is nothing to draw."""
    for subject in (SUBJECT, OTHER):
        path = tmp_path / f"{subject}.png"
        assert trend(store, subject, "--png", str(path)).exit_code == 0
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.std() > 5


def test_a_model_of_any_name_is_drawn(tmp_path: Path) -> None:
    """A model that was given as a file may have dollars in its name, which set mathematics."""
    row = dict.fromkeys(TrendRow.__dataclass_fields__) | {"tumour_volume_ml": 1.0, "model": "$x_y_z$"}
    rows = [TrendRow(**row | {"study_date": day}) for day in DAYS]  # type: ignore[arg-type]
    save_chart(tmp_path / "chart.png", rows)
    assert np.asarray(Image.open(tmp_path / "chart.png").convert("L")).std() > 5


def test_a_subject_of_whom_nothing_was_segmented(store: Store) -> None:
    """Is not an unknown one."""
    assert json.loads(trend(store, OTHER, "--json").stdout) == []
    assert "nothing of this subject was segmented" in trend(store, OTHER).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "no subject nobody"),
        ([SUBJECT, "--model", "other"], "nothing segmented by other, only by phantom-v1"),
    ],
)
def test_an_unknown_subject_or_model_is_a_usage_error(store: Store, arguments: list[str], message: str) -> None:
    """Exit 2; it says what there is."""
    result = trend(store, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
