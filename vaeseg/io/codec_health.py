"""Whether each decoder is there and decodes: a check for `vaeseg-batch doctor`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian

from vaeseg.checks import Check, failed, passed
from vaeseg.io.codec_samples import FRAMES
from vaeseg.io.dicom import quiet_pydicom
from vaeseg.io.headers import LOSSY_SYNTAXES, PINNED_PLUGINS
from vaeseg.io.pixels import decoded

SIDE = 32
BASELINE_JPEG = "1.2.840.10008.1.2.4.50"
BASELINE_DIVISOR = 8
LOSSY_TOLERANCE = 4
"""The samples come within 2 of values up to 1,500; another picture does not."""
PACKAGES = {
    "gdcm": "python-gdcm",
    "pydicom": "pydicom pylibjpeg-rle",
    "pyjpegls": "pyjpegls",
    "pylibjpeg": "pylibjpeg pylibjpeg-openjpeg",
}
"""What to install for a plug-in of pydicom."""


def codec_checks() -> Iterator[Check]:
    """Decode a tiny frame of every transfer syntax that is read: one check if all do, else one for each plug-in."""
    with quiet_pydicom():
        broken = {syntax: reason for syntax in PINNED_PLUGINS if (reason := _why_not(syntax))}
    if not broken:
        yield passed("codecs", f"{len(PINNED_PLUGINS)} transfer syntaxes are decoded")
    for plugin in sorted({PINNED_PLUGINS[syntax] for syntax in broken}):
        of_plugin = {syntax: reason for syntax, reason in broken.items() if PINNED_PLUGINS[syntax] == plugin}
        found = f"{plugin or 'pydicom'} does not decode {', '.join(of_plugin)}: {next(iter(of_plugin.values()))}"
        package = PACKAGES.get(plugin, "pydicom")
        yield failed("codecs", found, f"pip install --force-reinstall -c constraints.txt {package}")


def _why_not(syntax: str) -> str | None:
    """Why a syntax is not decoded, in a few words; None where it is."""
    try:
        found = decoded(_sample(syntax), syntax, (SIDE, SIDE))
    except Exception as error:  # noqa: BLE001 - a missing plug-in, a library that does not load, a decoder that refuses
        return type(error).__name__
    off = np.abs(found.astype(int) - expected(syntax)).max()
    return None if off <= (LOSSY_TOLERANCE if syntax in LOSSY_SYNTAXES else 0) else f"its pixels are off by {off}"


def expected(syntax: str) -> npt.NDArray[np.int64]:
    """(32, 32) what the sample of a syntax decodes to, but for what a lossy one loses."""
    j, i = np.indices((SIDE, SIDE))
    picture = 500 + 300 * (j // 8) + 100 * (i // 16)
    return picture // BASELINE_DIVISOR if syntax == BASELINE_JPEG else picture


def _sample(syntax: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 8 if syntax == BASELINE_JPEG else 16
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    if syntax in FRAMES:
        dataset.PixelData = encapsulate([FRAMES[syntax]])
    else:
        order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        dataset.PixelData = expected(syntax).astype(order).tobytes()
    return dataset
