"""A phantom archive, and a model that finds something in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import whole_archive
from random_model import write_random_model

from vaeseg.config import PhantomConfig
from vaeseg.distributed.submit import Submission
from vaeseg.phantom.dicom_writer import write_dicom_archive

PHANTOM = PhantomConfig(n_patients=3, seed=11, image_size=128, z_extent_mm=45.0, slice_spacing_mm=3.0)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dicom/` with three series, and `labels/`."""
    directory = tmp_path_factory.mktemp("archive")
    write_dicom_archive(directory, PHANTOM)
    return directory


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds something in each phantom."""
    return write_random_model(tmp_path_factory.mktemp("model") / "random.safetensors", PHANTOM)


@pytest.fixture
def submission(archive: Path, model_path: Path, tmp_path: Path) -> Submission:
    """All three series, with labels, into a new store."""
    return whole_archive(archive, model_path, tmp_path / "store")
