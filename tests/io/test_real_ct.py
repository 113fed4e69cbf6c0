"""Real CT from outside the repository, read independently with pydicom and SimpleITK; and copies of it, damaged."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from reading import judge, read_one, reasons

from vaeseg.geometry.affine import ras_from_ijk

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
LUNG1, CT_J2K = DATA / "lung1_001", DATA / "ct_j2k"
needs_data = pytest.mark.skipif(not LUNG1.is_dir(), reason="no ../shared/data beside the project: real CT is not read")
EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
VARIANTS = 50
"""Damaged copies of each kind of file."""


def read_independently(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """(K, J, I) HU sorted along the normal, and nibabel's affine, by pydicom and a page of the standard."""
    slices = [pydicom.dcmread(path) for path in directory.rglob("*") if path.is_file()]
    slices = [dataset for dataset in slices if dataset.Modality == "CT"]
    row, column = np.split(np.array(slices[0].ImageOrientationPatient, dtype=float), 2)
    slices.sort(key=lambda dataset: float(np.dot(np.cross(row, column), dataset.ImagePositionPatient)))
    hu = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices])
    first, last = (np.array(slices[n].ImagePositionPatient, dtype=float) for n in (0, -1))
    affine = np.eye(4)
    affine[:3, 0] = row * float(slices[0].PixelSpacing[1])
    affine[:3, 1] = column * float(slices[0].PixelSpacing[0])
    affine[:3, 2] = (last - first) / (len(slices) - 1)
    affine[:3, 3] = first
    return np.maximum(hu, -1024), np.diag([-1.0, -1, 1, 1]) @ affine


@needs_data
def test_lung1_is_read_among_other_objects() -> None:
    """134 CT slices in shuffled files with RTSTRUCT, RTPLAN and RTDOSE beside them."""
    assert reasons(LUNG1) == {"readable": 134, "not_an_image": 2, "wrong_modality": 1}
    volume, (hu, affine) = read_one(LUNG1), read_independently(LUNG1)
    np.testing.assert_array_equal(volume.volume_hu, hu)
    np.testing.assert_allclose(ras_from_ijk(volume.geometry), affine, atol=1e-9)
    assert volume.geometry.spacing_mm == pytest.approx((3.0, 0.9765625, 0.9765625), rel=1e-4)


@needs_data
def test_j2k_without_uids_is_read() -> None:
    """JPEG 2000, empty UIDs, file names against the order of slices, thickness 3 and spacing 2 mm."""
    (judged,) = judge(CT_J2K)
    volume, (hu, affine) = judged.volume, read_independently(CT_J2K)
    assert volume is not None
    np.testing.assert_array_equal(volume.volume_hu, hu)
    np.testing.assert_allclose(ras_from_ijk(volume.geometry), affine, atol=1e-9)
    assert volume.geometry.spacing_mm[0] == pytest.approx(2.0, abs=1e-3)
    assert judged.warnings == {"series_uid_derived"}


@needs_data
def test_simpleitk_has_the_same_lung1() -> None:
    """GDCM's own sorting and geometry, where it is right."""
    reader = SimpleITK.ImageSeriesReader()
    series = max(
        (reader.GetGDCMSeriesFileNames(str(LUNG1), uid) for uid in reader.GetGDCMSeriesIDs(str(LUNG1))), key=len
    )
    reader.SetFileNames(series)
    image, volume = reader.Execute(), read_one(LUNG1)
    np.testing.assert_array_equal(np.maximum(SimpleITK.GetArrayFromImage(image), -1024), volume.volume_hu)
    np.testing.assert_allclose(image.GetOrigin(), volume.geometry.lps_from_kji[:3, 3], atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing()[::-1], volume.geometry.spacing_mm, rtol=1e-6)


@needs_data
@pytest.mark.parametrize("source", [LUNG1, CT_J2K], ids=["lung1", "j2k"])
def test_damaged_copies_of_real_slices(tmp_path: Path, source: Path) -> None:
    """Three neighbours, one of them cut anywhere: refused, read with a warning, or the very same. With bits flipped
    anywhere: a verdict at least, as nothing in the file vouches for its voxels."""
    chosen = neighbours(source, 3)
    copies = [shutil.copyfile(path, tmp_path / f"{n}.dcm") for n, path in enumerate(chosen)]
    sound, random_source = read_one(tmp_path), random.Random(source.name)
    whole = copies[2].read_bytes()
    for variant in range(VARIANTS):
        copies[2].write_bytes(cut(whole, random_source) if variant % 2 else flipped(whole, random_source))
        for judged in judge(tmp_path):
            if judged.volume is None or judged.warnings - {"series_uid_derived"}:
                continue
            is_same = np.array_equal(judged.volume.volume_hu, sound.volume_hu)
            assert is_same or variant % 2 == 0, f"variant {variant}: cut, and read as {judged.volume.volume_hu.shape}"


def neighbours(directory: Path, count: int) -> list[Path]:
    def height(path: Path) -> float:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        return float(dataset.ImagePositionPatient[2]) if dataset.Modality == "CT" else np.inf

    return sorted((path for path in directory.rglob("*") if path.is_file()), key=height)[20 - count : 20]


def cut(raw: bytes, source: random.Random) -> bytes:
    return raw[: source.randrange(len(raw) - 2)]


def flipped(raw: bytes, source: random.Random) -> bytes:
    damaged = bytearray(raw)
    for _ in range(source.randrange(1, 9)):
        end = source.choice([3000, len(raw)])
        damaged[source.randrange(end)] ^= 1 << source.randrange(8)
    return bytes(damaged)
