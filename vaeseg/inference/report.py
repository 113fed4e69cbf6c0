"""The report of an evaluation: one page that needs nothing else, and the tables that it was made from.

report.html     figures, tables, drawings and overlays; no scripts, nothing is fetched
report.json     all of it as data, with a record for each subject and each slice
slices.csv      a row a slice
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from vaeseg import __version__
from vaeseg.durable import write_file
from vaeseg.errors import StoreError
from vaeseg.evaluation.agreement import Agreement, bland_altman
from vaeseg.evaluation.bootstrap import N_DRAWS
from vaeseg.evaluation.sizes import SizeRow, by_size
from vaeseg.evaluation.slices import equivalent_diameters_mm, ratio
from vaeseg.inference import report_figures as drawings
from vaeseg.inference.case_pictures import CasePicture
from vaeseg.inference.evaluation import Evaluation, remarks, result_json
from vaeseg.inference.report_page import PAGE

TITLES = {
    "iou_label": "mean IoU, slices with a label",
    "iou_label_or_prediction": "mean IoU, slices with a label or a prediction",
    "iou_label_median": "median IoU, slices with a label",
    "iou_pooled": "IoU of all pixels together",
    "dice_label": "mean Dice, slices with a label",
    "iou_subject": "mean over subjects of their mean IoU",
    "iou_label_large": "mean IoU, labels of 100 pixels or more",
    "volume_error_ml_median": "median absolute volume error, ml",
    "sensitivity": "share of labelled lesions found",
    "false_positive_slices_share": "share of label-free slices with a prediction",
}
"""What people call each figure."""

SLICE_COLUMNS = (
    "subject",
    "series",
    "slice_index",
    "label_pixels",
    "predicted_pixels",
    "shared_pixels",
    "label_area_mm2",
    "label_diameter_mm",
    "iou",
    "dice",
)

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything that a report shows."""

    evaluation: Evaluation
    seed: int
    """Of the bootstrap."""
    pictures: tuple[CasePicture, ...]
    created_at: datetime

    @property
    def agreement(self) -> Agreement | None:
        """Of the volumes that are known; None for fewer than two."""
        table = self.evaluation.table
        known = ~np.isnan(table.labelled_ml)
        return bland_altman(table.predicted_ml[known], table.labelled_ml[known])


def write_report(report: Report, directory: Path) -> None:
    """Write `report.html`, `report.json` and `slices.csv`; the directory is made.

    Raises:
        StoreError: it cannot be written.
    """
    data = report_json(report)
    files: dict[str, Callable[[], str]] = {
        "report.json": lambda: json.dumps(data, indent=1, allow_nan=False),
        "slices.csv": lambda: _as_csv(data["slices"]),
        "report.html": lambda: render_page(report, data),  # last, so that no trouble with a drawing costs the tables
    }
    make_report_directory(directory)
    for name, made in files.items():
        write_file(directory / name, made().encode(), f"{name} of the report in {directory}")


def make_report_directory(directory: Path) -> None:
    """Make the place of a report; worth doing before hours of evaluation.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the report cannot be written to {directory}: {error.strerror}") from error


def report_json(report: Report) -> Record:
    """What `report.json` holds: the answer of `--json`, and what each of its figures was made from."""
    evaluation = report.evaluation
    calibration = evaluation.calibration
    return {
        **result_json(evaluation, report.seed),
        "data": evaluation.location,
        "created_at": report.created_at.isoformat(timespec="seconds"),
        "vaeseg_version": __version__,
        "bootstrap": {"draws": N_DRAWS, "seed": report.seed},
        "by_size": [_size_record(row) for row in by_size(evaluation.table)],
        "volume_agreement": report.agreement and asdict(report.agreement),
        "calibration": {
            "expected_error": calibration.expected_error(),
            "expected_error_above_first_bin": calibration.expected_error(from_bin=1),
            "n_pixels": calibration.n_pixels.tolist(),
            "n_tumour": calibration.n_tumour.tolist(),
            "mean_probability": _finite(calibration.mean_probability),
        },
        "subjects": _subject_records(evaluation),
        "slices": _slice_records(evaluation),
    }


def render_page(report: Report, data: Record) -> str:
    """The page as HTML; every name from outside is escaped."""
    return PAGE.substitute(
        model=escape(data["model"]),
        head=_head(data),
        notes=_notes(data),
        figures=_figures_table(data),
        sizes=_sizes_table(data),
        drawings=_drawings(report),
        cases=_cases(report.pictures),
        subjects=_subjects_table(data["subjects"]),
        refused=_refused_table(data["refused"]),
    )


def _size_record(row: SizeRow) -> Record:
    return {**asdict(row), "high_mm": None if math.isinf(row.high_mm) else row.high_mm}


def _subject_records(evaluation: Evaluation) -> list[Record]:
    table, counts = evaluation.table, evaluation.table.counts
    records = []
    for number, subject in enumerate(table.subjects):
        own = table.subject_of_slice == number
        shared, union = counts.shared[own].sum(), counts.union[own].sum()
        shown = own & (counts.union > 0)
        records.append(
            {
                "subject": subject.name,
                "n_slices": subject.n_slices,
                "n_label_slices": int((own & counts.has_label).sum()),
                "iou": float(counts.ious[shown].mean()) if shown.any() else None,
                "iou_volume": _measured(float(ratio(shared, union))),
                "dice_volume": _measured(float(ratio(2 * shared, shared + union))),
                "labelled_ml": subject.labelled_ml,
                "predicted_ml": subject.predicted_ml,
                "n_lesions": len(subject.lesions),
                "n_lesions_found": sum(lesion.found for lesion in subject.lesions),
                "n_false_lesions": subject.n_false_lesions,
                "spacing_mm": None if subject.grid is None else list(subject.grid.spacing_mm),
            }
        )
    return records


def _slice_records(evaluation: Evaluation) -> list[Record]:
    table, counts = evaluation.table, evaluation.table.counts
    names = [table.subjects[number].name for number in table.subject_of_slice.tolist()]
    columns = (
        names,
        table.places.series,
        table.places.slice_index.tolist(),
        counts.label.tolist(),
        counts.predicted.tolist(),
        counts.shared.tolist(),
        _finite(table.label_areas_mm2),
        _finite(equivalent_diameters_mm(table.label_areas_mm2)),
        _finite(counts.ious),
        _finite(counts.dices),
    )
    return [dict(zip(SLICE_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def _finite(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float | None]:
    """None for NaN."""
    return [_measured(value) for value in values.tolist()]


def _measured(value: float) -> float | None:
    return None if math.isnan(value) else value


def _as_csv(records: Sequence[Record]) -> str:
    """Empty cells where a value is undefined."""
    written = io.StringIO()
    writer = csv.DictWriter(written, SLICE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return written.getvalue()


def _head(data: Record) -> str:
    rows = {
        "model": f"{data['model']}, threshold {data['threshold']:g}, in {data['computed_in']}",
        "digest": data["digest"],
        "data": data["data"],
        "evaluated": f"{data['n_subjects']} subjects, {data['n_slices']} slices, {data['n_label_slices']} with a label",
        "date": f"{data['created_at']}, vaeseg {data['vaeseg_version']}",
    }
    cells = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
    return f'<table class="head">{cells}</table>'


def _notes(data: Record) -> str:
    """What a reader must know before any figure."""
    notes = [escape(remark) for remark in remarks(data)]
    if data["refused"]:
        notes.append(f"{len(data['refused'])} items could not be evaluated; they are listed at the end.")
    return "".join(f'<p class="note">{note}</p>' for note in notes)


def _figures_table(data: Record) -> str:
    rows = [
        [text, f"<code>{name}</code>", _number(data[name], 4), _interval(data["confidence"][name])]
        for name, text in TITLES.items()
    ]
    return _html_table(["figure", "key", "value", "95 % interval"], rows, n_text=2)


def _sizes_table(data: Record) -> str:
    if all(row["n_slices"] == 0 for row in data["by_size"]):
        return "<p>Not known: no slice with a label has pixels of a known size.</p>"
    rows = [
        [
            _size_name(row),
            str(row["n_subjects"]),
            str(row["n_slices"]),
            *(_number(row[name], 3) for name in ("iou", "dice")),
            _percent(row["missed_share"]),
        ]
        for row in data["by_size"]
    ]
    return _html_table(["diameter, mm", "subjects", "slices", "mean IoU", "mean Dice", "nothing found"], rows)


def _size_name(row: Record) -> str:
    if row["high_mm"] is None:
        return f"{row['low_mm']:g} and more"
    return f"below {row['high_mm']:g}" if row["low_mm"] == 0 else f"{row['low_mm']:g} to {row['high_mm']:g}"


def _drawings(report: Report) -> str:
    table = report.evaluation.table
    shown = []
    if table.counts.has_label.any():
        shown.append(("IoU of slices with a label", drawings.draw_iou_distribution(table), ""))
        if not np.isnan(table.label_areas_mm2).any():
            shown.append(("IoU by size", drawings.draw_iou_by_size(table, by_size(table)), ""))
    calibration = report.evaluation.calibration
    if calibration.n_pixels.any():
        caption = (
            f"Expected calibration error {_number(calibration.expected_error(), 5)} over all pixels, "
            f"{_number(calibration.expected_error(from_bin=1), 3)} over those with a probability of 0.05 or more."
        )
        shown.append(
            ("Calibration of probability, on the model's grid", drawings.draw_calibration(calibration), caption)
        )
    if report.agreement is not None:
        shown.append(
            ("Volumes (Bland-Altman)", drawings.draw_agreement(table, report.agreement), _limits(report.agreement))
        )
    return "".join(_drawing(*drawing) for drawing in shown)


def _limits(agreement: Agreement) -> str:
    return (
        f"{agreement.n} subjects: mean difference {agreement.mean_difference_ml:+.3f} ml, "
        f"95 % limits {agreement.low_ml:+.3f} to {agreement.high_ml:+.3f} ml."
    )


def _drawing(title: str, source: str, caption: str) -> str:
    return f'<figure><h3>{title}</h3><img src="{source}" alt="{title}"><figcaption>{caption}</figcaption></figure>'


def _cases(pictures: Sequence[CasePicture]) -> str:
    if not pictures:
        return "<p>No slice holds a label or a prediction.</p>"
    return f'<img class="cases" src="{drawings.draw_cases(pictures)}" alt="overlays of single slices">'


def _subjects_table(subjects: Sequence[Record]) -> str:
    ordered = sorted(subjects, key=lambda row: (row["iou"] is None, row["iou"] or 0.0, row["subject"]))
    rows = [
        [
            escape(row["subject"]),
            str(row["n_slices"]),
            str(row["n_label_slices"]),
            *(_number(row[name], 3) for name in ("iou", "dice_volume", "labelled_ml", "predicted_ml")),
            f"{row['n_lesions_found']} of {row['n_lesions']}",
            str(row["n_false_lesions"]),
        ]
        for row in ordered
    ]
    heads = [
        "subject",
        "slices",
        "with label",
        "mean IoU",
        "Dice of the volume",
        "labelled, ml",
        "predicted, ml",
        "lesions found",
        "false lesions",
    ]
    return _html_table(heads, rows)


def _refused_table(refused: Sequence[Record]) -> str:
    if not refused:
        return "<p>Everything was evaluated.</p>"
    rows = [[escape(str(row[name])) for name in ("name", "reason", "detail")] for row in refused]
    return _html_table(["item", "reason", "detail"], rows, n_text=3)


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], n_text: int = 1) -> str:
    """A table whose first `n_text` columns are text and the others numbers; cells are HTML already."""
    kinds = ["text" if n < n_text else "number" for n in range(len(heads))]
    head = "".join(f'<th class="{kind}">{name}</th>' for kind, name in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None, digits: int) -> str:
    return "&ndash;" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.1%}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "&ndash;" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
