"""Reading every series under a path to the last pixel, and reporting what came of it.

Decoding happens in child processes: a decoder that dies or hangs costs its own series and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import ras_from_ijk
from vaeseg.io.archive import scan_archive
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.nifti import write_nifti
from vaeseg.io.series import SeriesVerdict
from vaeseg.io.volume import read_volume
from vaeseg.limits import usable_cores
from vaeseg.paths import AnyPath
from vaeseg.records import Reason

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""One line of `vaeseg-batch inspect --json`; the README lists the keys."""


def inspect_paths(paths: Sequence[Path], config: ReadingConfig, export_dir: Path | None = None) -> Iterator[Row]:
    """One row for each readable series and each refused group under the paths, in the order given.

    Args:
        paths: directories or files.
        config: bounds.
        export_dir: where readable volumes are written as NIfTI in HU; it exists.

    Raises:
        OSError: a path cannot be listed, or a volume cannot be exported.
    """
    taken: set[str] = set()
    with ThreadPoolExecutor(max_workers=usable_cores()) as threads:
        workers = _Workers(config)
        try:
            for path in paths:
                scan = scan_archive(path, config)
                jobs = [
                    (path, scan.root, verdict, _export_path(export_dir, verdict, taken)) for verdict in scan.verdicts
                ]
                yield from threads.map(lambda job: _inspect_one(workers, *job), jobs)
        finally:
            workers.stop()


def _export_path(export_dir: Path | None, verdict: SeriesVerdict, taken: set[str]) -> Path | None:
    """`<series_key>.nii.gz`, numbered where several paths given hold the same series."""
    if export_dir is None or not verdict.readable:
        return None
    name, number = verdict.series_key, 1
    while name in taken:
        number += 1
        name = f"{verdict.series_key}_{number}"
    taken.add(name)
    return export_dir / f"{name}.nii.gz"


def _inspect_one(workers: _Workers, path: Path, root: AnyPath, verdict: SeriesVerdict, export: Path | None) -> Row:
    row = _row(path, verdict)
    if verdict.manifest is None:
        return row
    answer = workers.measure(root, verdict.manifest, export)
    if answer.get("reason"):
        return row | {"verdict": "refused", **answer}
    return row | _geometry_fields(verdict.manifest) | answer


def _row(path: Path, verdict: SeriesVerdict) -> Row:
    return {
        "root": str(path),
        "series_instance_uid": verdict.ref.series_instance_uid if verdict.ref else None,
        "study_instance_uid": verdict.ref.study_instance_uid if verdict.ref else None,
        "modality": verdict.modality,
        "verdict": "readable" if verdict.readable else "refused",
        "reason": verdict.reason,
        "detail": verdict.detail,
        "warnings": list(verdict.warnings),
        "n_instances": len(verdict.files) if verdict.ref else 0,
        "n_files": len(verdict.files),
        "shape": None,
        "spacing_mm": None,
        "voxel_volume_mm3": None,
        "affine_ras": None,
        "hu_min": None,
        "hu_max": None,
        "hu_mean": None,
        "nifti": None,
    }


def _geometry_fields(manifest: SeriesManifest) -> Row:
    geometry = manifest.geometry
    return {
        "shape": list(geometry.shape),
        "spacing_mm": list(geometry.spacing_mm),
        "voxel_volume_mm3": geometry.voxel_volume_mm3,
        "affine_ras": ras_from_ijk(geometry).tolist(),
    }


def measure_volume(root: AnyPath, manifest: SeriesManifest, export: Path | None, config: ReadingConfig) -> Row:
    """Read one series, export it if asked, and return the fields that its pixels decide.

    Returns:
        ``hu_min``, ``hu_max``, ``hu_mean``, ``warnings`` and ``nifti``; where refused, ``reason`` and ``detail``. An
        error that nobody foresaw is ``internal_error``: it costs this series and no other.

    Raises:
        OSError: the volume cannot be exported.
    """
    try:
        volume = read_volume(root, manifest, config)
    except ReadingError as error:
        return {"reason": str(error.reason), "detail": error.detail}
    except Exception as error:  # the per-series boundary
        logger.debug("series %s", manifest.series_key, exc_info=True)
        return {"reason": str(Reason.INTERNAL_ERROR), "detail": f"reading failed with {type(error).__name__}"}
    if export is not None:
        write_nifti(export, volume.volume_hu, volume.geometry)
    return {
        "hu_min": float(volume.volume_hu.min()),
        "hu_max": float(volume.volume_hu.max()),
        "hu_mean": float(volume.volume_hu.mean(dtype=np.float64)),
        "warnings": [str(warning) for warning in volume.warnings],
        "nifti": None if export is None else str(export),
    }


class _Workers:
    """One child process a thread, started when first needed and again after a death."""

    def __init__(self, config: ReadingConfig) -> None:
        self._config = config
        self._local = threading.local()
        self._all: list[_Worker] = []

    def measure(self, root: AnyPath, manifest: SeriesManifest, export: Path | None) -> Row:
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = _Worker(self._config)
            self._all.append(worker)
        return worker.measure(root, manifest, export)

    def stop(self) -> None:
        for worker in self._all:
            worker.stop()


class _Worker:
    def __init__(self, config: ReadingConfig) -> None:
        self._config = config
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._config), daemon=True)
        self._process.start()
        theirs.close()

    def measure(self, root: AnyPath, manifest: SeriesManifest, export: Path | None) -> Row:
        try:
            self._pipe.send((root, manifest, export))
            if not self._pipe.poll(self._config.decode_timeout_seconds):
                self._restart()
                limit = self._config.decode_timeout_seconds
                return {"reason": str(Reason.DECODER_TIMEOUT), "detail": f"decoding took more than {limit:g} s"}
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self._restart()
            return {"reason": str(Reason.DECODER_CRASHED), "detail": f"the decoding process died (exit code {code})"}
        if isinstance(answer, OSError):
            raise answer
        row: Row = answer
        return row

    def _restart(self) -> int | None:
        self.stop()
        code = self._process.exitcode
        self._start()
        return code

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(timeout=1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, config: ReadingConfig) -> None:
    """The child's loop: one series after another until the parent hangs up, which may be in the middle of one."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            root, manifest, export = pipe.recv()
            pipe.send(_answer(root, manifest, export, config))


def _answer(root: AnyPath, manifest: SeriesManifest, export: Path | None, config: ReadingConfig) -> Row | OSError:
    try:
        return measure_volume(root, manifest, export, config)
    except OSError as error:
        return error
