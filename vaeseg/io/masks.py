"""Mask files: NIfTI on the grid of the source, and a preview for a person to look at."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vaeseg.durable import write_atomically
from vaeseg.io.nifti import write_nifti
from vaeseg.paths import AnyPath
from vaeseg.records import BoolArray, VolumeGeometry

MASK_NAME = "mask.nii.gz"
PREVIEW_NAME = "preview.png"
PREVIEW_SIDE = 768
"""Pixels; the model grid is magnified to at least this."""
LUNG_WINDOW_HU = (-1350.0, 150.0)
"""Centre -600, width 1500: what a radiologist reads lungs with."""
OUTLINE_COLOUR = (255, 64, 64)
SCALE_COLOUR = (255, 255, 255)
SCALE_BAR_MM = 50.0
CAPTION = "research only - not for clinical use"


def write_mask(directory: AnyPath, mask: BoolArray, geometry: VolumeGeometry) -> str:
    """Write `mask.nii.gz` so that it overlays the source voxel for voxel.

    Args:
        directory: made where it is missing.
        mask: (K, J, I) bool in the source's own order.
        geometry: of the source.

    Returns:
        SHA-256 of the file, 64 hex digits.

    Raises:
        OSError: cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = write_nifti(directory / MASK_NAME, mask.astype(np.uint8), geometry)
    return hashlib.sha256(data).hexdigest()


def write_preview(directory: AnyPath, slice_hu: npt.NDArray[np.int16], mask: BoolArray, pixel_mm: float) -> None:
    """Write `preview.png`: one axial slice, the outline of its mask, a scale bar and the words it must carry.

    Args:
        directory: exists.
        slice_hu: (S, S) HU on the model grid.
        mask: (S, S) bool.
        pixel_mm: side of a model pixel.

    Raises:
        OSError: cannot be written.
    """
    factor = max(1, -(-PREVIEW_SIDE // len(slice_hu)))
    image = Image.fromarray(_grey(slice_hu)).resize((len(slice_hu) * factor,) * 2, Image.Resampling.BICUBIC)
    pixels = np.asarray(image.convert("RGB")).copy()
    pixels[_outline(mask.repeat(factor, axis=0).repeat(factor, axis=1))] = OUTLINE_COLOUR
    picture = Image.fromarray(pixels)
    _draw_scale(picture, pixel_mm / factor)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(directory / PREVIEW_NAME, buffer.getvalue())


def _grey(slice_hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    low, high = LUNG_WINDOW_HU
    return np.asarray(np.clip((slice_hu - low) / (high - low), 0, 1) * 255, dtype=np.uint8)


def _outline(mask: BoolArray) -> BoolArray:
    """Pixels outside the mask that touch it, two wide, so that the tumour itself stays visible."""
    grown = mask
    for _ in range(2):
        padded = np.pad(grown, 1)
        grown = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown & ~mask


def _draw_scale(picture: Image.Image, pixel_mm: float) -> None:
    draw = ImageDraw.Draw(picture)
    left, bottom = 16, picture.height - 16
    draw.line([(left, bottom), (left + SCALE_BAR_MM / pixel_mm, bottom)], fill=SCALE_COLOUR, width=3)
    draw.text((left, bottom - 18), f"{SCALE_BAR_MM:g} mm", fill=SCALE_COLOUR)
    draw.text((left, 8), CAPTION, fill=SCALE_COLOUR)
