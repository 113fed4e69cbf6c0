"""Each selection rule, just on either side of its bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vaeseg.config import SelectionConfig
from vaeseg.distributed.selection import skip_by_rule
from vaeseg.io.manifest import SeriesManifest, SliceFile, matrix_as_tuples
from vaeseg.records import SeriesRef, Warn

CONFIG = SelectionConfig()


def manifest(
    shape: tuple[int, int, int] = (40, 512, 512), spacing: tuple[float, float, float] = (2.0, 0.7, 0.7)
) -> SeriesManifest:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
    return SeriesManifest(
        kind="dicom",
        series_key="1.2.3",
        ref=SeriesRef(series_instance_uid="1.2.3", study_instance_uid="1.2"),
        files=(SliceFile(path="a", size=1),),
        shape=shape,
        lps_from_kji=matrix_as_tuples(affine),
    )


def rule_of(candidate: SeriesManifest) -> str | None:
    skipped = skip_by_rule(candidate, CONFIG)
    return skipped and skipped.reason


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("min_slices", manifest((8, 512, 512), (5.0, 0.7, 0.7)), manifest((7, 512, 512), (5.0, 0.7, 0.7))),
        ("max_slice_spacing", manifest(spacing=(10.0, 0.7, 0.7)), manifest(spacing=(10.1, 0.7, 0.7))),
        ("min_extent", manifest((20, 512, 512), (1.0, 0.7, 0.7)), manifest((19, 512, 512), (1.0, 0.7, 0.7))),
        ("min_field_of_view", manifest((40, 100, 100), (2, 0.5, 0.5)), manifest((40, 100, 99), (2, 0.5, 0.5))),
    ],
)
def test_a_rule_applies_beyond_its_bound(rule: str, inside: SeriesManifest, outside: SeriesManifest) -> None:
    """On the bound a series is taken, beyond it skipped by that rule."""
    assert rule_of(inside) is None
    assert rule_of(outside) == rule


@pytest.mark.parametrize("warning", [Warn.RESCALE_MISSING, Warn.RESCALE_TYPE_NOT_HU])
def test_values_that_are_not_hounsfield_are_skipped(warning: Warn) -> None:
    """The model was trained on HU; anything else would be a wrong number that looks right."""
    assert rule_of(replace(manifest(), warnings=(warning,))) == "require_hounsfield"


def test_projections_are_skipped() -> None:
    """Beside its source a MIP would be measured too, and have larger tumours."""
    assert rule_of(replace(manifest(), warnings=(Warn.PROJECTION,))) == "projection"


def test_a_detail_gives_both_values() -> None:
    """What was found and what is expected."""
    skipped = skip_by_rule(manifest((3, 512, 512)), CONFIG)
    assert skipped is not None
    assert skipped.detail == "3 slices, expected at least 8"
