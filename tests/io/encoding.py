"""JPEG lossless by GDCM, the one encoder of it here."""

from __future__ import annotations

from pathlib import Path

import gdcm

FIRST_ORDER = gdcm.TransferSyntax.JPEGLosslessProcess14_1


def to_jpeg_lossless(path: Path, syntax: int = FIRST_ORDER) -> None:
    """Re-encode a DICOM file in place."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
