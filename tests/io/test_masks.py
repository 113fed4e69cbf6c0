"""Mask files overlay their source; previews show what they should."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from vaeseg.io.masks import OUTLINE_COLOUR, SCALE_BAR_MM, write_mask, write_preview
from vaeseg.records import VolumeGeometry

SHEARED = VolumeGeometry(
    shape=(3, 4, 5), lps_from_kji=np.array([[0, 0, 0.7, -10], [0.5, 0.8, 0, -20], [2.5, 0, 0, 30], [0, 0, 0, 1.0]])
)


def test_a_mask_has_the_affine_of_its_source(tmp_path: Path) -> None:
    """Also for a tilted gantry: world positions of the voxels, and the voxels themselves."""
    mask = np.zeros(SHEARED.shape, dtype=bool)
    mask[1, 2, 3] = True
    digest = write_mask(tmp_path / "new" / "folder", mask, SHEARED)
    path = tmp_path / "new" / "folder" / "mask.nii.gz"
    image = nibabel.load(path)
    assert np.argwhere(np.asarray(image.dataobj)).tolist() == [[3, 2, 1]]
    lps = SHEARED.lps_from_kji @ [1, 2, 3, 1]
    np.testing.assert_allclose(image.affine @ [3, 2, 1, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-5)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time stamp, no order of anything else."""
    mask = np.ones(SHEARED.shape, dtype=bool)
    assert write_mask(tmp_path / "a", mask, SHEARED) == write_mask(tmp_path / "b", mask, SHEARED)


def test_a_preview_outlines_the_mask_and_has_a_scale(tmp_path: Path) -> None:
    """The outline lies around the tumour and not on it; the white bar is 50 mm long."""
    slice_hu = np.full((64, 64), -1350, dtype=np.int16)
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:30, 24:40] = True
    write_preview(tmp_path, slice_hu, mask, pixel_mm=4.0)
    with Image.open(tmp_path / "preview.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    factor = len(pixels) // 64
    rows, columns = (pixels == OUTLINE_COLOUR).all(axis=2).nonzero()
    assert (rows.min(), rows.max()) == (20 * factor - 2, 30 * factor + 1)
    assert (columns.min(), columns.max()) == (24 * factor - 2, 40 * factor + 1)
    assert not (pixels[20 * factor : 30 * factor, 24 * factor : 40 * factor] == OUTLINE_COLOUR).all(axis=2).any()
    bar = (pixels[len(pixels) - 16] == 255).all(axis=1).sum()
    assert abs(bar - SCALE_BAR_MM / (4.0 / factor)) <= 1
