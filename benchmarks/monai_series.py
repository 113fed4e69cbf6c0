"""Series read by MONAI, as rows that our other stages take: a peer of `bench_pipeline`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from vaeseg.distributed.rows import SeriesRow
from vaeseg.geometry.orientation import axial_geometry
from vaeseg.geometry.resample import to_model_grid
from vaeseg.io.manifest import SeriesManifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of readers on GPUs that are not here
    from monai.transforms import LoadImage


class MonaiSeries(Dataset[SeriesRow]):
    """One item a series: axial phantoms of a directory each.

    Args:
        rows: from `rows.planned_row`.
        image_size: of the model grid.
    """

    def __init__(self, rows: Sequence[SeriesRow], image_size: int) -> None:
        self._rows, self._image_size = rows, image_size
        self._load = LoadImage(reader="PydicomReader", image_only=True)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> SeriesRow:
        row, started = self._rows[number], time.perf_counter()
        manifest = SeriesManifest.from_json(row["manifest"])
        directory = (Path(row["root"]) / manifest.files[0].path).parent
        volume = self._load(directory).numpy().transpose(2, 1, 0)  # it has (I, J, K)
        slices = to_model_grid(volume, axial_geometry(manifest.geometry).spacing_mm, self._image_size)
        seconds = time.perf_counter() - started
        return SeriesRow(**{**row, "slices": slices.tobytes(), "warnings": "[]", "read_seconds": seconds})
