"""Which readable series are worth segmenting; a series left out is `skipped`, with the rule and both values."""

from __future__ import annotations

from vaeseg.config import SelectionConfig
from vaeseg.geometry.orientation import axial_geometry
from vaeseg.io.manifest import SeriesManifest
from vaeseg.records import SkippedSeries, Warn

NOT_HOUNSFIELD = (Warn.RESCALE_MISSING, Warn.RESCALE_TYPE_NOT_HU)


def skip_by_rule(manifest: SeriesManifest, config: SelectionConfig) -> SkippedSeries | None:
    """The first rule that leaves a series out, or None.

    Sizes are taken in axial order, so that a sagittal stack is judged by its axial planes too.
    """
    geometry = axial_geometry(manifest.geometry)
    n_slices, *plane = geometry.shape
    spacing = geometry.spacing_mm
    extent = n_slices * spacing[0]
    field_of_view = min(plane[0] * spacing[1], plane[1] * spacing[2])
    rules = (
        ("min_slices", n_slices < config.min_slices, f"{n_slices} slices, expected at least {config.min_slices}"),
        (
            "max_slice_spacing",
            spacing[0] > config.max_slice_spacing_mm,
            f"slice spacing {spacing[0]:.4g} mm, expected at most {config.max_slice_spacing_mm:g} mm",
        ),
        (
            "min_extent",
            extent < config.min_extent_mm,
            f"extent {extent:.4g} mm along the patient, expected at least {config.min_extent_mm:g} mm",
        ),
        (
            "min_field_of_view",
            field_of_view < config.min_field_of_view_mm,
            f"field of view {field_of_view:.4g} mm, expected at least {config.min_field_of_view_mm:g} mm",
        ),
        (
            "require_hounsfield",
            config.require_hounsfield and any(warning in manifest.warnings for warning in NOT_HOUNSFIELD),
            "the rescale to Hounsfield units is missing or gives another unit",
        ),
        (
            "projection",
            Warn.PROJECTION in manifest.warnings,
            "ImageType says that its images are projections of several slices, as a MIP is",
        ),
    )
    for rule, applies, detail in rules:
        if applies:
            return SkippedSeries(ref=manifest.ref, reason=rule, detail=detail)
    return None
