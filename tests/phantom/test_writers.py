"""DICOM and MSD layouts: valid, complete, reproducible, and refused where something already is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from vaeseg.config import PhantomConfig
from vaeseg.errors import StoreError, UsageError
from vaeseg.geometry.affine import ras_from_ijk
from vaeseg.phantom.dicom_writer import write_dicom_archive
from vaeseg.phantom.msd_writer import write_msd_dataset
from vaeseg.phantom.patient import generate_patient
from vaeseg.phantom.writing import write_whole

CONFIG = PhantomConfig(n_patients=2, seed=5, image_size=48, z_extent_mm=24.0, slice_spacing_mm=3.0, tumour_free_share=0)

TYPE_1 = """
SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType SamplesPerPixel
PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation Rows Columns PixelSpacing
ImageOrientationPatient ImagePositionPatient RescaleIntercept RescaleSlope RescaleType PixelData
"""

TYPE_2 = """
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber
SeriesNumber PositionReferenceIndicator Manufacturer InstanceNumber SliceThickness KVP AcquisitionNumber PatientPosition
"""


def digest_of_tree(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sorted_slices(folder: Path) -> list[pydicom.FileDataset]:
    return sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda ds: ds.ImagePositionPatient[2])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("phantom") / "dicom archive"
    write_dicom_archive(directory, CONFIG)
    return directory


def test_dicom_pixels_and_positions_are_the_patients(archive: Path) -> None:
    """Sorted by position, rescaled to HU, the files are the generated volume on its grid."""
    patient = generate_patient(5, 0, CONFIG)
    slices = sorted_slices(archive / "dicom" / "PHANTOM-0001")
    volume = np.stack([ds.pixel_array.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept) for ds in slices])
    assert np.array_equal(volume, patient.volume_hu)
    for k, ds in enumerate(slices):
        assert np.allclose(ds.ImagePositionPatient, patient.geometry.lps_from_kji[:3, 3] + [0, 0, 3.0 * k])
        assert np.allclose(ds.PixelSpacing, patient.geometry.spacing_mm[1:])


def test_dicom_has_what_ct_image_storage_requires(archive: Path) -> None:
    """Type 1 attributes have a value, type 2 are there, and one UID names one thing."""
    slices = sorted_slices(archive / "dicom" / "PHANTOM-0002")
    for ds in slices:
        assert all(ds[name].value not in ("", None) for name in TYPE_1.split())
        assert all(name in ds for name in TYPE_2.split())
        assert ds.SOPClassUID == pydicom.uid.CTImageStorage == ds.file_meta.MediaStorageSOPClassUID
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert ds.SOPInstanceUID.is_valid
    assert len({ds.SOPInstanceUID for ds in slices}) == len(slices)
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    other = sorted_slices(archive / "dicom" / "PHANTOM-0001")[0]
    assert other.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert other.FrameOfReferenceUID != slices[0].FrameOfReferenceUID


def test_file_names_do_not_give_the_order_away(archive: Path) -> None:
    """A reader that sorts by name gets it wrong."""
    by_name = [pydicom.dcmread(path) for path in sorted((archive / "dicom" / "PHANTOM-0001").iterdir())]
    heights = [float(ds.ImagePositionPatient[2]) for ds in by_name]
    assert heights != sorted(heights)
    assert heights != sorted(heights, reverse=True)


def test_labels_lie_on_the_series_grid(archive: Path) -> None:
    """The label is named for the series, holds 0 and 1, and overlays it in RAS."""
    truth = json.loads((archive / "phantom.json").read_text())
    for index, entry in enumerate(truth["patients"]):
        patient = generate_patient(5, index, CONFIG)
        label = nibabel.load(archive / "labels" / f"{entry['series_instance_uid']}.nii.gz")
        assert label.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(label.dataobj).transpose(2, 1, 0).astype(bool), patient.label)
        assert np.allclose(label.affine, ras_from_ijk(patient.geometry), atol=1e-4)
        assert patient.label.any()


def test_truth_file_describes_every_patient(archive: Path) -> None:
    """Counts, spacing and volumes in phantom.json are those of the volumes."""
    truth = json.loads((archive / "phantom.json").read_text())
    assert truth["config"]["seed"] == 5
    assert [entry["patient"] for entry in truth["patients"]] == ["PHANTOM-0001", "PHANTOM-0002"]
    for index, entry in enumerate(truth["patients"]):
        patient = generate_patient(5, index, CONFIG)
        assert entry["shape"] == list(patient.label.shape)
        assert entry["n_slices_with_tumour"] == int(patient.label.any(axis=(1, 2)).sum())
        volume_ml = patient.label.sum() * patient.geometry.voxel_volume_mm3 / 1000
        assert entry["tumour_volume_ml"] == pytest.approx(volume_ml)
        assert sum(tumour["volume_ml"] for tumour in entry["tumours"]) == pytest.approx(volume_ml)
        assert len(list((archive / entry["dicom"]).iterdir())) == entry["n_slices"]


def test_writing_again_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    """Also from two worker processes; nothing depends on the time or the path."""
    write_dicom_archive(tmp_path / "again", CONFIG, workers=2)
    assert digest_of_tree(tmp_path / "again") == digest_of_tree(archive)


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        ("jpegls", pydicom.uid.JPEGLSLossless),
        ("j2k", pydicom.uid.JPEG2000Lossless),
        ("rle", pydicom.uid.RLELossless),
    ],
)
def test_compressed_files_hold_the_same_pixels(archive: Path, tmp_path: Path, name: str, uid: str) -> None:
    """Every transfer syntax is lossless and keeps the UIDs."""
    one = replace(CONFIG, n_patients=1, transfer_syntax=name)  # type: ignore[arg-type]
    write_dicom_archive(tmp_path / name, one)
    packed = sorted_slices(tmp_path / name / "dicom" / "PHANTOM-0001")
    plain = sorted_slices(archive / "dicom" / "PHANTOM-0001")
    for one_slice, other in zip(packed, plain, strict=True):
        assert one_slice.file_meta.TransferSyntaxUID == uid
        assert one_slice.SOPInstanceUID == other.SOPInstanceUID
        assert np.array_equal(one_slice.pixel_array, other.pixel_array)


def test_msd_layout(tmp_path: Path) -> None:
    """dataset.json names every pair, and images and labels are the patients'."""
    reported: list[int] = []
    write_msd_dataset(tmp_path / "msd", CONFIG, report=reported.append)
    content = json.loads((tmp_path / "msd" / "dataset.json").read_text())
    assert content["tensorImageSize"] == "3D"
    assert content["modality"] == {"0": "CT"}
    assert content["labels"] == {"0": "background", "1": "tumour"}
    assert content["numTraining"] == len(content["training"]) == 2
    assert reported == [8, 8]
    for index, pair in enumerate(content["training"]):
        patient = generate_patient(5, index, CONFIG)
        image = nibabel.load(tmp_path / "msd" / pair["image"])
        label = nibabel.load(tmp_path / "msd" / pair["label"])
        assert pair["image"] == f"./imagesTr/phantom_{index + 1:04d}.nii.gz"
        assert image.get_data_dtype() == np.int16
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), patient.volume_hu)
        assert np.array_equal(np.asarray(label.dataobj).transpose(2, 1, 0), patient.label)
        assert np.allclose(image.affine, label.affine)
    assert not list((tmp_path / "msd").rglob(".part-*"))


def test_organ_labels_add_the_lungs_and_change_nothing_else(tmp_path: Path) -> None:
    """Label 1 is the tumour as without the option, 2 the rest of the lungs; images and truth are the same bytes."""
    write_msd_dataset(tmp_path / "plain", CONFIG)
    write_msd_dataset(tmp_path / "organs", CONFIG, organ_labels=True)
    plain, organs = (digest_of_tree(tmp_path / name) for name in ("plain", "organs"))
    changed = {name for name in plain if plain[name] != organs[name]}
    assert changed == {"dataset.json", "labelsTr/phantom_0001.nii.gz", "labelsTr/phantom_0002.nii.gz"}
    assert json.loads((tmp_path / "organs/dataset.json").read_text())["labels"]["2"] == "lungs"
    patient = generate_patient(5, 1, CONFIG)
    labels = np.asarray(nibabel.load(tmp_path / "organs/labelsTr/phantom_0002.nii.gz").dataobj).transpose(2, 1, 0)
    assert np.array_equal(labels == 1, patient.label)
    assert 0.05 < (labels == 2).mean() < 0.6
    assert -950 < np.median(patient.volume_hu[labels == 2]) < -700


def test_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    """Nothing is written over, and the exit code is that of wrong usage."""
    (tmp_path / "something").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_msd_dataset(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """One clear error, no traceback from the file system."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="cannot be used"):
        write_dicom_archive(tmp_path / "file", CONFIG)


def test_file_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    """As on a full disk; the path is named."""
    (tmp_path / "blocker").write_text("a file where a folder is needed")
    with pytest.raises(StoreError, match="cannot be written"):
        write_whole(tmp_path / "blocker" / "x", b"content")
