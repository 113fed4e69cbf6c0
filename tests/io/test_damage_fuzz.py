"""Seeded damage: never a traceback, never a wrong volume without a warning where the damage can be known."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from factories import axial_affine_ras, write_nifti, write_series
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless
from reading import Judged, judge

from vaeseg.geometry.affine import ras_from_ijk
from vaeseg.io.dicom import quiet_pydicom
from vaeseg.io.elements import PARSE_ERRORS

FORMS = {
    "explicit": {},
    "implicit": {"TransferSyntaxUID": ImplicitVRLittleEndian},
    "big_endian": {"TransferSyntaxUID": ExplicitVRBigEndian},
    "deflated": {"TransferSyntaxUID": DeflatedExplicitVRLittleEndian},
}
ROUNDS = 120
IDENTITY = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPClassUID",
    "Modality",
    "PhotometricInterpretation",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
)


def damage(raw: bytes, source: random.Random, end: int) -> bytes:
    """One to four bits flipped, bytes overwritten, removed or put in, before byte `end`."""
    at, length = source.randrange(end), source.randrange(1, 12)
    kind = source.randrange(5)
    if kind == 0:
        return raw[:at] + source.randbytes(length) + raw[at + length :]
    if kind == 1:
        return raw[:at] + raw[at + length :]
    if kind == 2:
        return raw[:at] + source.randbytes(length) + raw[at:]
    flipped = bytearray(raw)
    for _ in range(source.randrange(1, 5)):
        flipped[source.randrange(end)] ^= 1 << source.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize("form", [*FORMS, "rle"])
def test_damaged_headers(tmp_path: Path, form: str) -> None:
    """Each round damages one slice's header anywhere before its pixels. What is read is then the volume, or says that
    slices were left out, or rests on numbers in the damaged header that are numbers still."""
    encode: Callable[[pydicom.FileDataset], object] | None = None
    if form == "rle":
        encode = lambda dataset: dataset.compress(RLELossless)  # noqa: E731
    series = write_series(tmp_path / "in", encode=encode, **FORMS.get(form, {}))
    whole, source = series.paths[5].read_bytes(), random.Random(form)
    (tmp_path / "whole").write_bytes(whole)
    pixels = whole.find(b"\xe0\x7f\x10\x00" if form != "big_endian" else b"\x7f\xe0\x00\x10")
    end = pixels if pixels > 0 else len(whole)
    for _ in range(ROUNDS):
        series.paths[5].write_bytes(damage(whole, source, end))
        for judged in judge(tmp_path / "in"):
            if judged.volume is not None and not judged.warnings:
                check_volume(judged, series.hu, series.paths[5], tmp_path / "whole")


def check_volume(judged: Judged, hu: np.ndarray, damaged: Path, whole: Path) -> None:
    volume = judged.volume
    assert volume is not None
    is_whole = np.array_equal(volume.volume_hu, hu)
    if is_whole and np.allclose(ras_from_ijk(volume.geometry), axial_affine_ras(), atol=0.05):
        return
    assert identity_of(damaged) != identity_of(whole), f"{volume.volume_hu.shape} read without a warning"


def identity_of(path: Path) -> tuple[str, ...]:
    """What nothing but the file itself can vouch for: to which series a slice belongs, its numbers, deflated pixels,
    which have no CRC in DICOM."""
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, force=True)
        try:
            is_deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
            return tuple(str(dataset.get(keyword)) for keyword in (*IDENTITY, *("PixelData",) * is_deflated))
        except PARSE_ERRORS:
            return ()


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_damaged_nifti(tmp_path: Path, name: str) -> None:
    """Plain: the header only, as voxels carry no check. Gzip: anywhere, and its CRC tells."""
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    write_nifti(tmp_path / name, values)
    whole, source = (tmp_path / name).read_bytes(), random.Random(name)
    for _ in range(ROUNDS * 3):
        damaged = damage(whole, source, 352 if name == "v.nii" else len(whole))
        (tmp_path / name).write_bytes(damaged)
        for judged in judge(tmp_path):
            if name == "v.nii.gz" and judged.volume is not None:
                np.testing.assert_array_equal(judged.volume.volume_hu, values.T)
