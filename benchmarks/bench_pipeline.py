"""A submission beside scripts that do the same work without a cluster, with the same reader and the same engine.

    python benchmarks/bench.py --only pipeline --scratch DIR

The archive holds `SERIES` phantom CTs of 512 x 512, about 100 slices each. Writing it takes minutes; it is kept in DIR.
Every path lists the archive, reads and segments each series, measures it and writes its mask. Ours also keeps an index,
a ledger in SQL, and Parquet. Ray and the pool's processes run before the clock starts; those of a DataLoader start
within it, as they always do. All masks must be the same.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from side_by_side import OURS, Figure, Result, in_turns, rate_of, run_alone
from stages import finished, one_process, planned_rows, stage_config

from vaeseg.config import PhantomConfig, RunConfig
from vaeseg.distributed.local import start_local_ray, stop_local_ray
from vaeseg.distributed.measuring import measure
from vaeseg.distributed.reading import read
from vaeseg.distributed.rows import SeriesRow
from vaeseg.distributed.segmenting import Segment
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.submit import Submission, submit
from vaeseg.io.masks import MASK_NAME
from vaeseg.phantom.dicom_writer import write_dicom_archive
from vaeseg.phantom.writing import TRUTH_NAME

SERIES = 40
FEW_SERIES = 10
"""Where Ray has another number of CPUs."""
LOGICAL_CPUS = (1, 2, 4)
MODEL = "phantom-v1"
PHANTOM = PhantomConfig(seed=21, slice_spacing_mm=2.75)
CORES = os.cpu_count() or 1

Work = Callable[[Path, Path], object]
"""Of an archive, into a store."""


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    """Ours beside the scripts, all warm from the comparison; then ours with other numbers of CPUs."""
    whole, few = phantom_archive(scratch, SERIES), phantom_archive(scratch, FEW_SERIES)
    store = scratch / "pipeline-store"
    with _pool_of_processes(store) as pool:
        paths: dict[str, Work] = {
            f"{OURS} submit": submitted,
            "script, one process, torch on all cores": partial(one_process, MODEL),
            f"script, pool of {CORES} processes": partial(on_pool, pool),
        }
        if find_spec("monai") is not None:
            paths[f"MONAI, DataLoader of {CORES} workers"] = with_monai
        start_local_ray()
        checked = _compared(paths, few, store)
        beside = _in_turns(paths, whole, store, rounds, checked)
        stop_local_ray()
    return [beside, _by_cpus(scratch, few)]


def phantom_archive(scratch: Path, n_series: int, phantom: PhantomConfig = PHANTOM) -> Path:
    """Write one, unless it is there; the directory of its DICOM files."""
    root = scratch / f"phantom-{phantom.image_size}-{n_series}-{phantom.z_extent_mm or 'whole'}"
    if not (root / TRUTH_NAME).exists():
        shutil.rmtree(root, ignore_errors=True)
        write_dicom_archive(root, replace(phantom, n_patients=n_series), workers=CORES)
    return root / "dicom"


def _compared(paths: Mapping[str, Work], archive: Path, store: Path) -> str:
    found = {}
    for name, work in paths.items():
        _into_new_store(work, archive, store)
        found[name] = mask_digests(store)
    own_name, own = next(iter(found.items()))
    for name, digests in found.items():
        differ = sorted(key for key in own.keys() | digests.keys() if own.get(key) != digests.get(key))
        assert not differ, (
            f"masks of '{own_name}' and '{name}' differ in {len(differ)} of {len(own)} series: {differ[:3]}"
        )
    return f"{len(own)} mask files, the same bytes from each path"


def _in_turns(paths: Mapping[str, Work], archive: Path, store: Path, rounds: int, checked: str) -> Result:
    n_slices = count_slices(archive)
    timed = {name: rate_of(partial(_into_new_store, work, archive, store), n_slices) for name, work in paths.items()}
    return Result(benchmark="pipeline", unit="slices/s", checked=checked, figures=in_turns(timed, rounds))


def mask_digests(store: Path) -> dict[str, str]:
    """SHA-256 of each mask file, by series."""
    files = store.glob(f"masks/*/*/*/{MASK_NAME}")
    return {file.parents[1].name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _into_new_store(work: Work, archive: Path, store: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)
    work(archive, store)


def count_slices(archive: Path) -> int:
    return sum(1 for _ in archive.rglob("*.dcm"))


def submitted(archive: Path, store: Path) -> None:
    """Ours."""
    config = RunConfig(model_path=MODEL, device="cpu")
    report = submit(Submission(study_dir=archive, store_root=store, database_url=None, model=MODEL, config=config))
    assert report.complete, f"not every series was segmented: {report.outcomes}"


@contextmanager
def _pool_of_processes(store: Path) -> Iterator[ProcessPoolExecutor]:
    """One for each core, each with the model in one thread."""
    config = stage_config(MODEL, store)
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn"), _load_model, (config,)) as pool:
        yield pool


_segment: Segment
"""Of a process of the pool."""


def _load_model(config: StageConfig) -> None:
    global _segment
    _segment = Segment(config, cores=lambda: 1)


def on_pool(pool: ProcessPoolExecutor, archive: Path, store: Path) -> None:
    """Whole series in parallel."""
    config = stage_config(MODEL, store)
    for row in pool.map(partial(_all_stages, config), planned_rows(archive, config)):
        finished(row)


def _all_stages(config: StageConfig, row: SeriesRow) -> SeriesRow:
    return measure(_segment(read(row, config)), config)


def with_monai(archive: Path, store: Path) -> None:
    """MONAI reads in a DataLoader's processes; this one segments and measures, torch on all cores."""
    from monai_series import MonaiSeries
    from torch.utils.data import DataLoader

    config = stage_config(MODEL, store)
    segment = Segment(config, cores=os.cpu_count)
    series = MonaiSeries(list(planned_rows(archive, config)), config.image_size)
    for row in DataLoader(series, batch_size=None, num_workers=CORES):
        finished(measure(segment(row), config))


def _by_cpus(scratch: Path, archive: Path) -> Result:
    """Each number of CPUs once, in a process of its own."""
    figures = []
    warm_up = phantom_archive(scratch, 1, replace(PHANTOM, z_extent_mm=30.0))
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    for cpus in LOGICAL_CPUS:
        done = run_alone(ON_CPUS, str(cpus), archive, warm_up, scratch / "pipeline-store", PYTHONPATH=search)
        figures.append(Figure(path=f"{OURS} submit, {cpus} logical CPUs", rounds=(float(done.stdout.split()[-1]),)))
    return Result(
        benchmark="pipeline by CPUs",
        unit="slices/s",
        checked="every series was segmented each time",
        figures=tuple(figures),
        notes={"series": FEW_SERIES, "cores": CORES},
    )


ON_CPUS = """
import sys
from pathlib import Path
from bench_pipeline import measured_on
print(measured_on(int(sys.argv[1]), *map(Path, sys.argv[2:])))
"""


def measured_on(cpus: int, archive: Path, warm_up: Path, store: Path) -> float:
    """Slices a second of ours on a Ray with so many logical CPUs, after it has warmed up."""
    start_local_ray(cpus)
    _into_new_store(submitted, warm_up, store)
    rate = rate_of(partial(_into_new_store, submitted, archive, store), count_slices(archive))()
    stop_local_ray()
    return rate
