"""What tests of reading ask: which volumes are under a path, and why the rest is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import ras_from_ijk
from vaeseg.io.archive import scan_archive
from vaeseg.io.series import SeriesVerdict
from vaeseg.io.volume import read_volume
from vaeseg.records import Volume

CONFIG = ReadingConfig()


@dataclass(frozen=True)
class Judged:
    """A verdict after its pixels were read too."""

    verdict: SeriesVerdict
    volume: Volume | None
    reason: str | None
    detail: str | None

    @property
    def warnings(self) -> set[str]:
        return {str(warning) for warning in (self.volume.warnings if self.volume else ())}


def judge(path: Path, config: ReadingConfig = CONFIG) -> list[Judged]:
    """Every verdict under a path; each file found is in exactly one, whatever is there."""
    scan = scan_archive(path, config)
    named = sorted(file.path for verdict in scan.verdicts for file in verdict.files)
    assert named == sorted(file.path for file in scan.files)
    assert scan.file_count.found == len(named)
    return [_read(scan.root, verdict, config) for verdict in scan.verdicts]


def read_one(path: Path, config: ReadingConfig = CONFIG) -> Volume:
    """The one volume under a path."""
    volumes = [judged.volume for judged in judge(path, config) if judged.volume is not None]
    assert len(volumes) == 1, [(judged.reason, judged.detail) for judged in judge(path, config)]
    return volumes[0]


def reasons(path: Path, config: ReadingConfig = CONFIG) -> dict[str, int]:
    """Files by reason; files of readable volumes under ``readable``."""
    count: Counter[str] = Counter()
    for judged in judge(path, config):
        count[judged.reason or "readable"] += len(judged.verdict.files)
    return dict(count)


def assert_volume(volume: Volume, hu: np.ndarray, affine_ras: np.ndarray) -> None:
    """Voxel for voxel, and in its place."""
    np.testing.assert_array_equal(volume.volume_hu, hu)
    np.testing.assert_allclose(ras_from_ijk(volume.geometry), affine_ras, atol=1e-9)


def _read(root: Path, verdict: SeriesVerdict, config: ReadingConfig) -> Judged:
    if verdict.manifest is None:
        return Judged(verdict, None, str(verdict.reason), verdict.detail)
    try:
        return Judged(verdict, read_volume(root, verdict.manifest, config), None, None)
    except ReadingError as error:
        return Judged(verdict, None, str(error.reason), error.detail)
