from __future__ import annotations

import numpy as np
import pytest

from vaeseg.evaluation.subjects import Grid, SlicePlaces, measure_subject, tabulate, touched_components, whole_volume

GRID = Grid(spacing_mm=(2.0, 0.5, 1.0), pixel_mm2=0.5, voxel_mm3=1.0)


def empty() -> np.ndarray:
    return np.zeros((5, 8, 8), dtype=bool)


def two_lesions() -> np.ndarray:
    """Eight voxels in slices 0 and 1, two in slice 4."""
    label = empty()
    label[:2, :2, :2] = True
    label[4, 6, 5:7] = True
    return label


def lesion_sizes(label: np.ndarray, series: tuple[str, ...], numbers: tuple[int, ...]) -> list[int]:
    places = SlicePlaces(series=series, slice_index=np.array(numbers))
    record, _ = measure_subject("a", np.zeros_like(label), label, GRID, places)
    return [lesion.n_voxels for lesion in record.lesions]


def test_a_lesion_is_found_by_one_voxel_and_a_false_one_touches_none() -> None:
    """The larger lesion is touched in a corner, the smaller is missed, and two components lie elsewhere."""
    mask = empty()
    mask[1, 1, 1] = mask[1, 2, 2] = True
    mask[4, 0, 0] = mask[4, 0, 7] = True
    record, counts = measure_subject("a", mask, two_lesions(), GRID, whole_volume("a", 5))
    assert [(lesion.n_voxels, lesion.found) for lesion in record.lesions] == [(8, True), (2, False)]
    assert [lesion.volume_ml for lesion in record.lesions] == pytest.approx([0.008, 0.002])
    assert record.n_false_lesions == 2
    assert (record.labelled_ml, record.predicted_ml) == (pytest.approx(0.010), pytest.approx(0.004))
    np.testing.assert_array_equal(counts.shared, [0, 1, 0, 0, 0])


def test_lesions_touch_by_corners_and_not_beyond() -> None:
    """Connectivity 26: a corner joins; a voxel beside the lesion does not touch it for being found."""
    label = empty()
    label[0, 0, 0] = label[1, 1, 1] = True
    near = empty()
    near[0, 0, 1] = True
    assert touched_components(label, near) == [(2, False)]
    assert touched_components(near, label) == [(1, False)]
    assert touched_components(empty(), near) == []


def test_slices_that_are_not_neighbours_do_not_join_a_lesion() -> None:
    """Slices 3 and 7 of a patient lie beside one another in the array and not in the patient."""
    label = empty()[:2]
    label[:, 3, 3] = True
    assert lesion_sizes(label, ("a", "a"), (3, 7)) == [1, 1]
    assert lesion_sizes(label, ("a", "a"), (3, 4)) == [2]


def test_slices_of_two_volumes_do_not_join_a_lesion() -> None:
    """Not even where a number of the second follows the last one of the first."""
    label = empty()[:2]
    label[:, 3, 3] = True
    assert lesion_sizes(label, ("a", "b"), (2, 0)) == [1, 1]
    assert lesion_sizes(label, ("a", "b"), (0, 1)) == [1, 1]


def test_a_table_holds_subjects_one_after_another() -> None:
    """Areas are those of each subject's own pixels."""
    coarse = Grid(spacing_mm=(1.0, 2.0, 2.0), pixel_mm2=4.0, voxel_mm3=4.0)
    parts = []
    for name, grid in (("a", GRID), ("b", coarse)):
        places = whole_volume(name, 5)
        parts.append((*measure_subject(name, empty(), two_lesions(), grid, places), places))
    table = tabulate(parts)
    assert [subject.name for subject in table.subjects] == ["a", "b"]
    np.testing.assert_array_equal(table.subject_of_slice, [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(table.places.slice_index, [0, 1, 2, 3, 4] * 2)
    assert table.places.series == ("a",) * 5 + ("b",) * 5
    np.testing.assert_allclose(table.label_areas_mm2, [2, 2, 0, 0, 1, 16, 16, 0, 0, 8])
    np.testing.assert_allclose(table.labelled_ml, [0.010, 0.040])


def test_no_subjects_give_an_empty_table() -> None:
    """And not an error: every item may have been refused."""
    table = tabulate([])
    assert (len(table.subjects), len(table.counts), len(table.label_areas_mm2)) == (0, 0, 0)


def test_places_must_be_as_many_as_slices() -> None:
    """Otherwise lesions would be cut at random."""
    with pytest.raises(ValueError, match="5 slices, places of 4"):
        measure_subject("a", empty(), empty(), GRID, whole_volume("a", 4))
