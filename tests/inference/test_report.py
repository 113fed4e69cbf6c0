"""The report: one page that needs nothing else, and tables from which every figure can be counted again."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_factories import BrightIsTumour, box, list_subjects, tiny_model, write_subject

from vaeseg.errors import StoreError
from vaeseg.evaluation.calibration import CalibrationHistogram
from vaeseg.evaluation.cases import Case, choose_cases
from vaeseg.evaluation.subjects import tabulate
from vaeseg.inference import evaluation
from vaeseg.inference.case_pictures import CasePicture, picture_cases
from vaeseg.inference.evaluation import EvaluatedModel, Evaluation, evaluate, load_model
from vaeseg.inference.evaluation_sources import MsdSource, Refused
from vaeseg.inference.report import Report, report_json, write_report

LABEL = box(slice(0, 2), slice(0, 10), slice(0, 12))
PREDICTED = box(slice(1, 3), slice(0, 10), slice(6, 18))
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluatedModel:
    monkeypatch.setattr(evaluation, "Predictor", BrightIsTumour)
    return load_model(tiny_model(tmp_path))


@pytest.fixture
def source(tmp_path: Path) -> MsdSource:
    """Two subjects, the second exact; a third is lost. The first has a name to be escaped."""
    write_subject(tmp_path / "data", "a&amp;", LABEL, PREDICTED)
    write_subject(tmp_path / "data", "b", LABEL, LABEL)
    return MsdSource(list_subjects(tmp_path / "data", "a&amp;", "b", "lost"))


def report_of(model: EvaluatedModel, source: MsdSource) -> Report:
    done = evaluate(model, source)
    pictures = picture_cases(model, source, done.table, choose_cases(done.table))
    return Report(evaluation=done, seed=0, pictures=pictures, created_at=NOON)


def test_the_page_needs_nothing_else(model: EvaluatedModel, source: MsdSource, tmp_path: Path) -> None:
    """No script, no address, every image inside; model, digest, data, date and what kind of software it is."""
    report = report_of(model, source)
    write_report(report, tmp_path / "deep" / "report")
    page = (tmp_path / "deep" / "report" / "report.html").read_text()
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 5
    assert all(address.startswith("data:image/") for address in sources)
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)
    assert "url(" not in page
    for said in (
        "Research software, not for clinical use",
        model.checkpoint.digest,
        "2026-01-02T12:00:00+00:00",
        "2 subjects, 8 slices, 4 with a label",
        "unreadable_file",
        "a&amp;amp;",
    ):
        assert said in page


def test_figures_can_be_counted_again_from_the_tables(model: EvaluatedModel, source: MsdSource, tmp_path: Path) -> None:
    """slices.csv alone gives iou_label and iou_pooled of report.json; cells are empty where undefined."""
    write_report(report_of(model, source), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    with (tmp_path / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    places = [(row["subject"], row["series"], row["slice_index"]) for row in rows[3:5]]
    assert places == [("a&amp;", "a&amp;", "3"), ("b", "b", "0")]
    assert rows[3]["iou"] == ""
    labelled = [float(row["iou"]) for row in rows if int(row["label_pixels"])]
    assert data["iou_label"] == pytest.approx(np.mean(labelled)) == pytest.approx((0 + 1 / 3 + 1 + 1) / 4)
    shared = sum(int(row["shared_pixels"]) for row in rows)
    union = sum(int(row["label_pixels"]) + int(row["predicted_pixels"]) for row in rows) - shared
    assert data["iou_pooled"] == pytest.approx(shared / union)
    first, second = data["subjects"]
    assert (first["iou"], first["iou_volume"], first["dice_volume"]) == (
        pytest.approx(1 / 9),
        pytest.approx(60 / 420),
        pytest.approx(120 / 480),
    )
    assert (first["labelled_ml"], first["n_lesions"], first["n_lesions_found"]) == (pytest.approx(0.72), 1, 1)
    assert (second["iou"], second["dice_volume"], second["n_false_lesions"]) == (1.0, 1.0, 0)
    assert data["volume_agreement"]["mean_difference_ml"] == pytest.approx(0)
    assert sum(row["n_slices"] for row in data["by_size"]) == data["n_label_slices"]


def test_pictures_show_what_was_counted(model: EvaluatedModel, source: MsdSource) -> None:
    """The masks of a picture have the IoU of their row; its image is bright where the prediction is."""
    table = evaluate(model, source).table
    cases = (Case(kind="median", row=1), Case(kind="best", row=5), Case(kind="false_alarm", row=2))
    pictures = picture_cases(model, source, table, cases)
    assert [(p.kind, p.subject, p.slice_index) for p in pictures] == [
        ("median", "a&amp;", 1),
        ("best", "b", 1),
        ("false_alarm", "a&amp;", 2),
    ]
    for picture, expected in zip(pictures, (1 / 3, 1, 0), strict=True):
        shared, either = picture.label & picture.mask, picture.label | picture.mask
        assert shared.sum() / either.sum() == pytest.approx(expected) == pytest.approx(picture.iou)
        np.testing.assert_allclose(picture.image[picture.mask], 1040 / 1400, atol=1e-6)
        np.testing.assert_allclose(picture.image[~picture.mask], 200 / 1400, atol=1e-6)


def empty(**changes: Any) -> Evaluation:
    nothing = Evaluation(
        model="m",
        digest="d",
        threshold=0.5,
        computed_in="float32",
        location="here",
        table=tabulate([]),
        calibration=CalibrationHistogram(),
        refused=(Refused(name="x", reason="no_label", detail="<i>"),),
        overlap_subjects=None,
    )
    return replace(nothing, **changes)


def written(evaluated: Evaluation, directory: Path, pictures: tuple[CasePicture, ...] = ()) -> str:
    write_report(Report(evaluation=evaluated, seed=0, pictures=pictures, created_at=NOON), directory)
    return (directory / "report.html").read_text()


def test_nothing_evaluated_is_a_report_too(tmp_path: Path) -> None:
    """No drawings, no division by zero, the refused item with its detail escaped."""
    page = written(empty(), tmp_path)
    assert "<img" not in page
    assert "&lt;i&gt;" in page
    assert json.loads((tmp_path / "report.json").read_text())["subjects"] == []


def test_tumour_free_subjects_alone_are_a_report(model: EvaluatedModel, tmp_path: Path) -> None:
    """Nothing labelled: false alarms and calibration are all there is to see."""
    write_subject(tmp_path / "data", "a", LABEL & False, PREDICTED)
    page = written(evaluate(model, MsdSource(list_subjects(tmp_path / "data", "a"))), tmp_path)
    assert page.count("<img") == 1


def test_slices_of_a_single_line_are_reported(model: EvaluatedModel, tmp_path: Path) -> None:
    """As a coronal slice gives them: a contour needs two lines, and the whole report was lost for want of one."""
    line = box(slice(0, 3), slice(0, 1), slice(10, 20), shape=(4, 1, 64))
    write_subject(tmp_path / "data", "line", line, line)
    source = MsdSource(list_subjects(tmp_path / "data", "line"))
    write_report(report_of(model, source), tmp_path / "report")
    assert 'class="cases"' in (tmp_path / "report" / "report.html").read_text()


def test_trouble_with_a_drawing_does_not_cost_the_tables(
    model: EvaluatedModel, source: MsdSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written before the page is made."""
    monkeypatch.setattr("vaeseg.inference.report.drawings.draw_cases", lambda pictures: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(report_of(model, source), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"report.json", "slices.csv"}


def test_remarks_on_subjects_are_said_at_the_head(tmp_path: Path) -> None:
    """With names that may hold anything."""
    page = written(empty(warnings={"label_covers_part": ("<b>",)}, n_duplicates=2), tmp_path)
    assert "does not reach everywhere in its image" in page
    assert "&lt;b&gt;" in page
    assert "2 of the 0 subjects are copies" in page


def test_overlap_is_said_at_the_head(tmp_path: Path) -> None:
    """Figures of subjects that were trained on look good and mean little."""
    assert "was trained on 3 of these" in written(empty(overlap_subjects=3), tmp_path)
    assert "trained on" not in written(empty(overlap_subjects=0), tmp_path)
    assert "is unknown" in written(empty(overlap_subjects=None), tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The report would lie below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="report cannot be written"):
        written(empty(), tmp_path / "file" / "report")


@pytest.mark.parametrize(
    ("name", "shown"), [("$x_y_z$", "$x_y_z$"), ("pati\udccent", "pati\\udccent")], ids=["mathematics", "no UTF-8"]
)
def test_file_names_of_every_kind_are_reported(model: EvaluatedModel, tmp_path: Path, name: str, shown: str) -> None:
    """A drawing sets no mathematics from them, and bytes that are no UTF-8 are escaped everywhere."""
    directory = tmp_path / name
    write_subject(directory, name, LABEL, PREDICTED)
    report = report_of(model, MsdSource(list_subjects(directory, name, f"lost {name}")))
    write_report(report, tmp_path / "report")
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert data["data"] == data["subjects"][0]["subject"] == data["slices"][0]["subject"] == shown
    assert data["refused"][0]["name"] == f"lost {shown}"
    assert shown in (tmp_path / "report" / "slices.csv").read_text(encoding="utf-8")
    assert f">{shown}</td>" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_the_same_evaluation_gives_the_same_page(model: EvaluatedModel, source: MsdSource, tmp_path: Path) -> None:
    """Byte for byte, drawings included."""
    report = report_of(model, source)
    for name in ("one", "two"):
        write_report(report, tmp_path / name)
    for name in ("report.html", "report.json", "slices.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_report_json_holds_the_whole_answer(model: EvaluatedModel, source: MsdSource) -> None:
    """Every key of `--json`, and no value that JSON cannot hold."""
    report = report_of(model, source)
    data = report_json(report)
    assert set(evaluation.result_json(report.evaluation, 0)) <= set(data)
    json.dumps(data, allow_nan=False)
