"""From the files of a DICOM series to the slices that the model sees, by transfer syntax, on one core.

    python benchmarks/bench.py --only reading

A phantom series of 40 slices of 512 x 512, 12 bits, written once and then transcoded without loss. All end on the same
256 x 256 grid of int16 HU by the same resampling, so that reading is what differs, and have to be equal there:

- vaeseg: what the stage that reads does: `read_volume` of a manifest, axial order, model grid;
- pydicom: `dcmread` and `pixel_array` with the decoders it chooses by itself (for RLE that of pylibjpeg, where it is
  installed), rescale, sorted by position;
- SimpleITK: `ImageSeriesReader`, which decodes by its own GDCM;
- MONAI: `LoadImage` with its pydicom reader.

Which files are a series, and in which order, our index knows before; so SimpleITK gets its list of names before too.
Ours also checks each file (bits, lengths, end of the compressed data, whether it is the one indexed); peers do not.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_rescale
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from side_by_side import OURS, Result, in_turns, rate_of

from vaeseg.config import PhantomConfig, ReadingConfig
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import to_model_grid
from vaeseg.io.archive import scan_archive
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.volume import read_volume
from vaeseg.phantom.dicom_writer import DICOM_FOLDER, write_dicom_archive

PHANTOM = PhantomConfig(n_patients=1, seed=5, image_size=512, z_extent_mm=80.0, slice_spacing_mm=2.0)
MODEL_SIZE = 256
CONFIG = ReadingConfig()

Slices = npt.NDArray[np.int16]
Spacing = tuple[float, float, float]
Peer = Callable[[], Slices]


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    native = _written(scratch / "reading" / "native", _write_native)
    with on_one_core():
        return [_measured(syntax, _transcoded(native, syntax), rounds) for syntax in TRANSCODERS]


@contextmanager
def on_one_core() -> Iterator[None]:
    """As a task that reads has one to itself: some decoders of peers take all there are, whatever they are told."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _measured(syntax: str, directory: Path, rounds: int) -> Result:
    manifest = manifest_of(directory)
    own, peers = partial(read_here, directory, manifest), peers_of(directory, manifest)
    expected, wrong = own(), {}
    for name, peer in list(peers.items()):
        if trouble := difference(expected, peer):
            del peers[name]
            wrong[name] = trouble
    assert len(peers) > 1, f"{syntax}: who can be compared with? {wrong}"
    paths: dict[str, Peer] = {OURS: own, **peers}
    return Result(
        benchmark=f"reading, {syntax}",
        unit="slices/s",
        checked=f"{', '.join(peers)}: every pixel of {len(expected)} slices equal on the model grid",
        figures=in_turns({name: rate_of(path, len(expected)) for name, path in paths.items()}, rounds),
        notes={"left out": wrong, "bytes a slice": sum(file.size for file in manifest.files) // len(expected)},
    )


def read_here(directory: Path, manifest: SeriesManifest) -> Slices:
    """As the stage that reads has it."""
    volume = read_volume(directory, manifest, CONFIG)
    axial = axial_order(volume.geometry).to_axial(volume.volume_hu)
    return to_model_grid(axial, axial_geometry(volume.geometry).spacing_mm, MODEL_SIZE)


def difference(expected: Slices, peer: Peer) -> str:
    """What keeps a peer from taking part; empty where its slices equal the expected ones."""
    try:
        found = peer()
    except Exception as error:  # noqa: BLE001  what a decoder raises is what is to be told
        return f"{type(error).__name__}: {error}"
    if found.shape != expected.shape:
        return f"slices of shape {found.shape}, expected {expected.shape}"
    apart = np.abs(found.astype(np.int32) - expected)
    return f"{np.count_nonzero(apart)} pixels differ, by up to {apart.max()} HU" if apart.any() else ""


def peers_of(directory: Path, manifest: SeriesManifest) -> dict[str, Peer]:
    """By name, ready to read; those that are not installed say so when they are called."""
    spacing = axial_geometry(manifest.geometry).spacing_mm
    return {
        "pydicom": partial(read_with_pydicom, directory, spacing),
        "SimpleITK": _simpleitk_reader(directory, spacing),
        "MONAI": _monai_reader(directory, spacing),
    }


def read_with_pydicom(directory: Path, spacing: Spacing) -> Slices:
    instances = [pydicom.dcmread(path) for path in directory.iterdir()]
    instances.sort(key=lambda instance: instance.ImagePositionPatient[2])
    volume = np.stack([apply_rescale(instance.pixel_array, instance) for instance in instances])
    return to_model_grid(volume, spacing, MODEL_SIZE)


def _simpleitk_reader(directory: Path, spacing: Spacing) -> Peer:
    if find_spec("SimpleITK") is None:
        return partial(_not_installed, "SimpleITK")
    import SimpleITK as sitk  # noqa: N813  as its documentation has it

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(directory))

    def read() -> Slices:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        image = reader.Execute()  # a view of it lives no longer than it
        return to_model_grid(sitk.GetArrayViewFromImage(image), spacing, MODEL_SIZE)

    return read


def _monai_reader(directory: Path, spacing: Spacing) -> Peer:
    if find_spec("monai") is None:
        return partial(_not_installed, "MONAI")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of readers on GPUs that are not here
        from monai.transforms import LoadImage

        load = LoadImage(reader="PydicomReader", image_only=True)

    def read() -> Slices:
        return to_model_grid(load(directory).numpy().transpose(2, 1, 0), spacing, MODEL_SIZE)  # it has (I, J, K)

    return read


def _not_installed(name: str) -> Slices:
    raise ModuleNotFoundError(f"{name} is not installed: pip install -c constraints.txt -r benchmarks/peers.txt")


def manifest_of(directory: Path) -> SeriesManifest:
    (verdict,) = scan_archive(directory, CONFIG).verdicts
    assert verdict.manifest is not None, f"{directory}: {verdict.reason}: {verdict.detail}"
    return verdict.manifest


def _written(directory: Path, write: Callable[[Path], object]) -> Path:
    """A directory that is whole if it is there."""
    if not directory.exists():
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(directory)
    return directory


def _write_native(directory: Path) -> None:
    write_dicom_archive(directory, PHANTOM)


def _transcoded(native: Path, syntax: str) -> Path:
    """The series in another transfer syntax; the native one as it is."""
    (series,) = (native / DICOM_FOLDER).iterdir()
    transcode = TRANSCODERS[syntax]
    if transcode is None:
        return series

    def write(directory: Path) -> None:
        directory.mkdir()
        for path in series.iterdir():
            transcode(path, directory / path.name)

    return _written(native.with_name(syntax.replace(" ", "-")), write)


def _compress(syntax: pydicom.uid.UID, plugin: str, source: Path, target: Path) -> None:
    dataset = pydicom.dcmread(source)
    dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    dataset.save_as(target, enforce_file_format=True)


def _compress_with_gdcm(source: Path, target: Path) -> None:
    """The one encoder of JPEG lossless here."""
    import gdcm  # before zlib it would bind the system's libz to its own old one, which ends in a broken heap

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read(), f"GDCM cannot read {source}"
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change(), f"GDCM cannot compress {source}"
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write(), f"GDCM cannot write {target}"


TRANSCODERS: Mapping[str, Callable[[Path, Path], None] | None] = {
    "native": None,
    "RLE": partial(_compress, RLELossless, "pydicom"),
    "JPEG-LS": partial(_compress, JPEGLSLossless, "pyjpegls"),
    "JPEG lossless": _compress_with_gdcm,
    "JPEG 2000": partial(_compress, JPEG2000Lossless, "pylibjpeg"),
}
"""All without loss; by the name of the result."""
