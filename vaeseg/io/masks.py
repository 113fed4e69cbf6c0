"""Mask files: NIfTI on the grid of the source, and a preview for a person to look at."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vaeseg.durable import HALF_WRITTEN, write_atomically
from vaeseg.io.nifti import write_nifti
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, entries
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


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """What lies in `masks/`, in a fixed order; paths are relative to the store."""

    directories: tuple[PurePath, ...]
    """Of a study, a series and a model each; save those that hold strays alone."""
    half_written: tuple[PurePath, ...]
    """Files in them that have not got their name yet, or never will."""
    strays: tuple[PurePath, ...]
    """What lies where no mask or preview does, or has another name. A directory in that of a mask is one entry."""


def listed_masks(store: Store) -> MaskFiles:
    """Look through a store's masks."""
    found, half_written, strays = dict[PurePath, list[bool]](), list[PurePath](), list[PurePath]()
    for path, is_directory in entries(store.masks, 4):
        here = below(store.masks / path, store.root)
        match len(path.parts), is_directory:
            case 3, True:
                found.setdefault(here, [])
            case ((1 | 2), True):
                continue
            case 4, _:
                is_ours = not is_directory and _is_named_by_us(path.name)
                found.setdefault(here.parent, []).append(is_ours)
                if not is_ours:
                    strays.append(here)
                elif HALF_WRITTEN.fullmatch(path.name):
                    half_written.append(here)
            case _:
                strays.append(here)
    directories = [path for path, are_ours in found.items() if any(are_ours) or not are_ours]
    return MaskFiles(directories=tuple(directories), half_written=tuple(half_written), strays=tuple(strays))


def files_of_mask(store: Store, directory: PurePath) -> Iterator[PurePath]:
    """Mask, preview and half written files in a directory, relative to the store as it is."""
    for name, is_directory in entries(store.root / directory, 1):
        if not is_directory and _is_named_by_us(name.name):
            yield directory / name


def is_empty(store: Store, directory: PurePath) -> bool:
    """Whether a directory of a mask holds nothing; False for a link to one, and where it cannot be looked into."""
    place = store.root / directory
    if isinstance(place, Path) and place.is_symlink():
        return False
    try:
        return next(iter(place.iterdir()), None) is None
    except OSError:
        return False


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


def _is_named_by_us(name: str) -> bool:
    return name in (MASK_NAME, PREVIEW_NAME) or HALF_WRITTEN.fullmatch(name) is not None


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
