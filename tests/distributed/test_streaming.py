"""Row groups that are read elsewhere, and later than the data set was opened."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training_factories import write_squares

from vaeseg.distributed import streaming
from vaeseg.distributed.streaming import StreamedSource, _read_row_group
from vaeseg.errors import StoreError
from vaeseg.io.dataset import open_data_set


def test_a_data_set_that_was_prepared_again_is_not_read(tmp_path: Path) -> None:
    """Other slices in the same place would be trained on under the old digest: the error says what to do."""
    location = write_squares(tmp_path / "set")
    digest = open_data_set(location).manifest.digest
    shutil.rmtree(location)
    write_squares(tmp_path / "set", n_subjects=9)
    error = _read_row_group({"group": 0}, location, digest)["error"]
    assert isinstance(error, StoreError)
    assert "prepared again" in str(error)
    assert "with --force" in str(error)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # of its own settings
def test_what_is_wrong_with_a_row_group_is_raised_as_it_is(tmp_path: Path) -> None:
    """Not as Ray's account of it, which would be tried again."""
    location = write_squares(tmp_path / "set", slices_each=10)
    source = StreamedSource(open_data_set(location), torch.device("cpu"))
    (shard,) = (tmp_path / "set" / "slices").iterdir()
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 4] ^= 255
    shard.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"part-00000\.parquet .*prepare it again"):
        list(source.steps([np.arange(10)]))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("n_groups", "readers"), [(1, 1), (3, 3), (9, 4)])
def test_few_read_ahead_however_many_cores_there_are(
    n_groups: int, readers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them takes memory, in the mode for data that do not fit there."""

    def told(size: int) -> None:
        raise StoreError(f"{size} readers")

    monkeypatch.setattr(streaming, "TaskPoolStrategy", told)
    source = StreamedSource(open_data_set(write_squares(tmp_path / "set")), torch.device("cpu"))
    with pytest.raises(StoreError, match=f"^{readers} readers$"):
        next(source._row_groups(range(n_groups)))
