from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vaeseg.evaluation import protocol
from vaeseg.evaluation.figures import confidence, figures
from vaeseg.evaluation.sizes import SIZES_MM, by_size
from vaeseg.evaluation.subjects import EvaluationTable, Grid, measure_subject, tabulate, whole_volume

SIDE = 20


def square(side: int, left: int = 0) -> np.ndarray:
    plane = np.zeros((SIDE, SIDE), dtype=bool)
    plane[:side, left : left + side] = True
    return plane


def table_of(subjects: dict[str, list[tuple[np.ndarray, np.ndarray]]], pixel_mm: float = 1.0) -> EvaluationTable:
    """Subjects given as (label, mask) of each slice, pixels of `pixel_mm` and slices 10 mm apart."""
    grid = Grid(spacing_mm=(10.0, pixel_mm, pixel_mm), pixel_mm2=pixel_mm**2, voxel_mm3=10 * pixel_mm**2)
    parts = []
    for name, planes in subjects.items():
        labels, masks = (np.stack([plane[n] for plane in planes]) for n in (0, 1))
        places = whole_volume(name, len(planes))
        parts.append((*measure_subject(name, masks, labels, grid, places), places))
    return tabulate(parts)


NONE = square(0)
THREE = {
    "a": [(square(10), square(10, left=5)), (square(4), NONE), (NONE, NONE)],
    "b": [(square(2), square(2)), (NONE, square(3)), (NONE, NONE), (NONE, NONE)],
    "c": [(NONE, NONE)],
}
"""a: 100 pixels of which 50 are found with 50 beside, IoU 1/3, Dice 1/2; 16 pixels missed. b: exact; 9 pixels invented.
c: nothing."""


def test_every_figure_by_hand() -> None:
    """Three subjects of eight slices, three of them labelled."""
    found = figures(table_of(THREE))
    assert found == {
        "iou_label": pytest.approx((1 / 3 + 0 + 1) / 3),
        "iou_label_or_prediction": pytest.approx((1 / 3 + 0 + 1 + 0) / 4),
        "iou_label_median": pytest.approx(1 / 3),
        "iou_pooled": pytest.approx((50 + 0 + 4 + 0) / (150 + 16 + 4 + 9)),
        "dice_label": pytest.approx((1 / 2 + 0 + 1) / 3),
        "iou_subject": pytest.approx((1 / 6 + 1 / 2) / 2),
        "iou_label_large": pytest.approx(1 / 3),
        # a: 116 labelled, 100 predicted; b: 4 and 13; c: 0 and 0; 0.01 ml a pixel
        "volume_error_ml_median": pytest.approx(0.09),
        # a has one lesion, since 26-connectivity joins both slices; b one
        "sensitivity": 1.0,
        "false_positive_slices_share": pytest.approx(1 / 5),
    }


def test_figures_are_those_of_the_protocol() -> None:
    """The same as the functions that training and batches use, on random masks."""
    rng = np.random.default_rng(0)
    planes = [(square(int(m)), square(int(n))) for m, n in rng.integers(0, 4, (12, 2))]
    table = table_of({"a": planes[:5], "b": planes[5:7], "c": planes[7:]})
    labels, masks = (np.stack([plane[n] for plane in planes]) for n in (0, 1))
    ious = protocol.slice_ious(masks, labels)
    found = figures(table)
    assert found["iou_label"] == pytest.approx(protocol.mean_iou_label(ious, protocol.holds_label(labels)))
    assert found["iou_label_or_prediction"] == pytest.approx(protocol.mean_iou_label_or_prediction(ious))
    subjects = ["a"] * 5 + ["b"] * 2 + ["c"] * 5
    per_subject = protocol.subject_mean_ious(ious, subjects)
    assert found["iou_subject"] == pytest.approx(protocol.mean_over_subjects(per_subject))


def test_missed_lesions_lower_the_sensitivity() -> None:
    """Two of three lesions; the third lies apart."""
    label = square(3) | square(3, left=10)
    table = table_of({"a": [(label, square(1))], "b": [(square(3), square(1))]})
    assert figures(table)["sensitivity"] == pytest.approx(2 / 3)


def test_large_begins_at_a_hundred_pixels() -> None:
    """99 pixels are not large, 100 are."""
    just_less = square(10)
    just_less[0, 0] = False
    assert figures(table_of({"a": [(just_less, just_less)]}))["iou_label_large"] is None
    assert figures(table_of({"a": [(square(10), square(10))]}))["iou_label_large"] == 1.0


@pytest.mark.parametrize("subjects", [{}, {"a": [(NONE, NONE)], "b": [(NONE, NONE)]}])
def test_what_is_undefined_is_none(subjects: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    """Without subjects everything; without tumours everything but volumes and false alarms, which are 0."""
    found, bounds = figures(table_of(subjects)), confidence(table_of(subjects), seed=0, n_draws=50)
    defined = {"volume_error_ml_median": 0.0, "false_positive_slices_share": 0.0} if subjects else {}
    assert {name: figure for name, figure in found.items() if figure is not None} == defined
    assert {name: bound for name, bound in bounds.items() if bound is not None} == dict.fromkeys(defined, (0.0, 0.0))


def test_slices_all_labelled_have_no_share_of_false_alarms() -> None:
    """There is no slice without a label to raise one in."""
    assert figures(table_of({"a": [(square(2), square(2))]}))["false_positive_slices_share"] is None


def test_intervals_hold_the_figure_and_repeat_with_the_seed() -> None:
    """Ten subjects with one slice each; every figure has the same keys as its interval."""
    subjects = {str(n): [(square(10), square(1 + n))] for n in range(10)}
    table = table_of(subjects)
    bounds = confidence(table, seed=3)
    assert bounds.keys() == figures(table).keys()
    assert bounds == confidence(table, seed=3)
    assert bounds != confidence(table, seed=4)
    assert bounds["iou_label"] is not None
    low, high = bounds["iou_label"]
    assert 0 < low < (figures(table)["iou_label"] or 0) < high < 1


def test_sizes_are_diameters_of_discs_in_mm() -> None:
    """Squares of 4, 6, 12 and 20 mm have discs of 4.5, 6.8, 13.5 and 22.6 mm; beside the 6 mm one lies a prediction."""
    planes = [
        (square(2), square(2)),
        (square(3), square(3, left=9)),
        (square(6), square(6, left=3)),
        (square(10), square(10)),
    ]
    rows = by_size(table_of({"a": planes, "b": planes[:1]}, pixel_mm=2.0))
    assert [(row.low_mm, row.high_mm) for row in rows] == list(pairwise(SIZES_MM))
    assert [(row.n_subjects, row.n_slices) for row in rows] == [(2, 2), (1, 1), (1, 1), (1, 1), (0, 0)]
    assert [row.iou for row in rows] == [1.0, 0.0, pytest.approx(1 / 3), 1.0, None]
    assert [row.dice for row in rows] == [1.0, 0.0, pytest.approx(1 / 2), 1.0, None]
    assert [row.missed_share for row in rows] == [0.0, 1.0, 0.0, 0.0, None]


def test_the_lower_bound_of_a_size_belongs_to_it() -> None:
    """One pixel of 25 pi mm2 is a disc of 10 mm, which is 10 to 20 and not 6 to 10."""
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), pixel_mm2=25 * np.pi, voxel_mm3=1.0)
    one = whole_volume("a", 1)
    record, counts = measure_subject("a", square(1)[None], square(1)[None], grid, one)
    assert [row.n_slices for row in by_size(tabulate([(record, counts, one)]))] == [0, 0, 1, 0, 0]


def test_pixels_of_unknown_size_belong_to_no_size() -> None:
    """Nor have they a volume; everything else is known."""
    one = whole_volume("a", 1)
    record, counts = measure_subject("a", square(2)[None], square(2)[None], None, one)
    table = tabulate([(record, counts, one)])
    assert sum(row.n_slices for row in by_size(table)) == 0
    assert (record.labelled_ml, record.lesions[0].volume_ml) == (None, None)
    assert (figures(table)["volume_error_ml_median"], figures(table)["iou_label"]) == (None, 1.0)
