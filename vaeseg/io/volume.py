"""From a manifest to a volume in Hounsfield units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import same_grid
from vaeseg.io.ahead import read_ahead
from vaeseg.io.dicom import quiet_pydicom
from vaeseg.io.hounsfield import HuStack, check_levels, is_above_int16
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.nifti import read_image
from vaeseg.io.pixels import read_instance_hu
from vaeseg.paths import AnyPath
from vaeseg.records import Reason, Volume, Warn


def read_volume(root: AnyPath, manifest: SeriesManifest, config: ReadingConfig) -> Volume:
    """Read a series that was judged readable.

    Args:
        root: the directory that the manifest's paths are relative to.
        manifest: from `archive.scan_archive`.
        config: bounds.

    Returns:
        The volume with the manifest's geometry; `warnings` hold the manifest's and what the pixels added.

    Raises:
        ReadingError: a file changed since the scan, is truncated, or its decoder refuses it; its values are no HU.
    """
    return _warned((_read_nifti if manifest.kind == "nifti" else _read_dicom)(root, manifest, config))


def _read_nifti(root: AnyPath, manifest: SeriesManifest, config: ReadingConfig) -> Volume:
    volume = read_image(root / manifest.files[0].path, config)
    if not same_grid(volume.geometry, manifest.geometry):
        raise ReadingError(Reason.CHANGED_WHILE_READING, "shape or affine differs from what the index recorded")
    return replace(volume, geometry=manifest.geometry)


def _warned(volume: Volume) -> Volume:
    """Of values that no CT has, whatever a header says of them: every slice differs, and every CT holds some air."""
    noticed = {
        Warn.NO_NEGATIVE_VALUES: all(values.min() >= 0 for values in volume.volume_hu),  # nearly always the first tells
        Warn.BLANK_SLICES: any(_is_blank(values) for values in volume.volume_hu),
    }
    return replace(
        volume, warnings=tuple(sorted({*volume.warnings, *(warn for warn, is_so in noticed.items() if is_so)}))
    )


def _is_blank(values: npt.NDArray[np.generic]) -> bool:
    """Whether a slice (J, I) has one value everywhere; in nearly all, a corner and the middle differ."""
    middle = values[values.shape[0] // 2, values.shape[1] // 2]
    return bool(values[0, 0] == middle and (values == middle).all())


def _read_dicom(root: AnyPath, manifest: SeriesManifest, config: ReadingConfig) -> Volume:
    stack = HuStack(manifest.shape)
    noticed: set[Warn] = set(manifest.warnings)
    with quiet_pydicom():
        places = read_ahead(root / file.path for file in manifest.files)
        for k, (file, place) in enumerate(zip(manifest.files, places, strict=True)):
            values, warnings = read_instance_hu(place, file, manifest.shape[1:], config)
            stack.put(k, values)
            noticed |= warnings
    volume = Volume(volume_hu=stack.volume_hu, geometry=manifest.geometry)
    check_levels(volume, allow_whole=True)
    if is_above_int16(volume):
        noticed.add(Warn.VALUES_ABOVE_INT16)
    return replace(volume, warnings=tuple(sorted(noticed | stack.warnings)))
