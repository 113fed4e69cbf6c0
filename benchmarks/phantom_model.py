"""How a model does on unseen phantoms, subject by subject: the figures of docs/model-card-phantom-v1.md.

    vaeseg-batch phantom DIR --layout msd --patients 40 --seed 4004 --workers 2
    python benchmarks/phantom_model.py --model phantom-v1 --msd-dir DIR

Phantoms of another seed than the training set's share no patient with it. Prints a table; --json prints everything.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaeseg.config import ReadingConfig
from vaeseg.evaluation.overlap import dice
from vaeseg.evaluation.protocol import holds_label, slice_ious
from vaeseg.inference.predictor import Predictor
from vaeseg.io.msd import MsdItem, read_msd
from vaeseg.models.checkpoint import load_checkpoint, resolve_model
from vaeseg.records import BoolArray
from vaeseg.training.slices import SliceSet, load_slices

SIZES_MM = ((0, 6), (6, 10), (10, 20), (20, 30), (30, 100))
"""Bounds of tumour diameter, as a subject's largest tumour has it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was found in one phantom."""

    name: str
    largest_mm: float
    """Diameter of its largest tumour; 0 without any."""
    ious: tuple[float, ...]
    """Of slices that hold a label or a prediction."""
    label_ious: tuple[float, ...]
    """Of slices that hold a label."""
    false_slices: int
    """Slices with a prediction and no label."""
    n_slices: int
    dice: float
    """Over the whole volume on the model's grid; NaN where nothing is and nothing was found."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="phantom-v1")
    parser.add_argument("--msd-dir", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    subjects = list(measure(arguments.model, arguments.msd_dir))
    figures = summarise(subjects)
    if arguments.json:
        print(json.dumps({"figures": figures, "subjects": [vars(subject) for subject in subjects]}))
        return
    for name, value in figures.items():
        print(f"{name:45s} {value}")


def measure(model: str, msd_dir: Path) -> Iterator[Subject]:
    """Segment every phantom of a directory, one in memory at a time."""
    predictor = Predictor(load_checkpoint(resolve_model(model)))
    truth = {p["patient"]: p for p in json.loads((msd_dir / "phantom.json").read_text())["patients"]}
    for item in read_msd(msd_dir):
        slices = load_slices([item], predictor.preprocessing, ReadingConfig(), with_labels=True)
        yield _subject(item, truth[item.name], predictor.segment(slices.images_hu), _labels(slices))


def summarise(subjects: list[Subject]) -> dict[str, Any]:
    """The card's figures; means over slices, over subjects, and by size."""
    ill = [subject for subject in subjects if subject.largest_mm]
    well = [subject for subject in subjects if not subject.largest_mm]
    figures: dict[str, Any] = {
        "subjects (with tumour / without)": f"{len(ill)} / {len(well)}",
        "slices": sum(subject.n_slices for subject in subjects),
        "mean IoU, slices with label or prediction": _mean([iou for s in subjects for iou in s.ious]),
        "mean IoU, slices with label": _mean([iou for s in subjects for iou in s.label_ious]),
        "mean IoU, mean over subjects of their mean": _mean([_mean(list(s.ious)) for s in subjects if s.ious]),
        "Dice per subject with tumour, mean": _mean([s.dice for s in ill]),
        "Dice per subject with tumour, median": round(float(np.median([s.dice for s in ill])), 3),
        "slices with a false prediction": sum(s.false_slices for s in subjects),
        "tumour-free subjects with any prediction": f"{sum(s.false_slices > 0 for s in well)} of {len(well)}",
        "false slices in tumour-free subjects": sum(s.false_slices for s in well),
        "slices of tumour-free subjects": sum(s.n_slices for s in well),
    }
    for low, high in SIZES_MM:
        chosen = [s for s in ill if low <= s.largest_mm < high]
        figures[f"largest tumour {low}-{high} mm"] = (
            f"{len(chosen)} subjects, Dice {_mean([s.dice for s in chosen])}, "
            f"found {sum(s.dice > 0 for s in chosen)}, IoU label {_mean([i for s in chosen for i in s.label_ious])}"
        )
    return figures


def _labels(slices: SliceSet) -> BoolArray:
    return slices.labels(np.arange(len(slices.images_hu)))


def _subject(item: MsdItem, truth: dict[str, Any], mask: BoolArray, label: BoolArray) -> Subject:
    ious = slice_ious(mask, label)
    labelled = holds_label(label)
    return Subject(
        name=item.name,
        largest_mm=max((tumour["diameter_mm"] for tumour in truth["tumours"]), default=0.0),
        ious=tuple(ious[~np.isnan(ious)].tolist()),
        label_ious=tuple(ious[labelled].tolist()),
        false_slices=int((mask.any(axis=(1, 2)) & ~labelled).sum()),
        n_slices=len(mask),
        dice=dice(mask, label),
    )


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return round(float(np.mean(defined)), 3) if defined else float("nan")


if __name__ == "__main__":
    main()
