"""JPEG frames: what is decoded here is what pydicom decodes, and what is not in order is left to it."""

from __future__ import annotations

from pathlib import Path

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from encoding import FIRST_ORDER, to_jpeg_lossless
from factories import write_series
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames

from vaeseg.errors import ReadingError
from vaeseg.io import pixels
from vaeseg.io.codestream import PixelFormat, check_codestream
from vaeseg.io.jpeg import jpeg_frame
from vaeseg.io.pixels import decoded

SHAPE = (40, 31)
END = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"


def walk(bits: int, signed: bool) -> npt.NDArray[np.generic]:
    """(40, 31) values of so many bits that use all of them, in the least whole bytes."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    steps = np.random.default_rng(bits).integers(-high // 40, high // 40 + 1, SHAPE)
    values = np.cumsum(steps, axis=1) + (low + high) // 2
    values[0, 0], values[0, 1] = low, high
    return values.clip(low, high).astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def encoded(folder: Path, stored: npt.NDArray[np.generic], bits: int, syntax: int = FIRST_ORDER) -> FileDataset:
    path = write_series(folder, stored[None], BitsStored=bits, HighBit=bits - 1).paths[0]
    to_jpeg_lossless(path, syntax)
    return pydicom.dcmread(path)


def frame_of(dataset: FileDataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def expected_of(dataset: FileDataset, **changes: int) -> PixelFormat:
    fields = {"precision": dataset.BitsStored, "is_signed": dataset.PixelRepresentation == 1, "shape": SHAPE}
    return PixelFormat(components=1, **{**fields, **changes})


def bytes_of(dataset: FileDataset, frame: bytes, **changes: int) -> npt.NDArray[np.uint8] | None:
    return jpeg_frame(frame, str(dataset.file_meta.TransferSyntaxUID), expected_of(dataset, **changes))


@pytest.mark.parametrize("syntax", [FIRST_ORDER, gdcm.TransferSyntax.JPEGLosslessProcess14])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_frames_in_order_are_decoded_bit_for_bit(tmp_path: Path, bits: int, signed: bool, syntax: int) -> None:
    """Every bit that the header stores, signed or not, odd number of columns too."""
    stored = walk(bits, signed)
    dataset = encoded(tmp_path, stored, bits, syntax)
    found = bytes_of(dataset, frame_of(dataset))
    assert found is not None
    assert np.array_equal(found.view(stored.dtype)[..., 0], stored)
    assert np.array_equal(decoded(dataset, str(dataset.file_meta.TransferSyntaxUID), SHAPE), stored)


def test_frames_that_are_not_in_order_are_left_to_pydicom(tmp_path: Path) -> None:
    """Cut, with a scan that makes no sense, of another size, or of another number of bytes."""
    dataset = encoded(tmp_path, walk(12, signed=False), 12)
    frame = frame_of(dataset)
    scan = frame.index(START_OF_SCAN)
    assert bytes_of(dataset, frame) is not None
    for damaged in [b"", frame[: len(frame) // 2] + END, frame[:scan] + END, frame[: scan + 6] + b"\xff\xdd\xd9" + END]:
        assert bytes_of(dataset, damaged) is None
    assert bytes_of(dataset, frame, shape=(SHAPE[0] - 1, SHAPE[1])) is None
    assert bytes_of(dataset, frame, precision=8) is None
    assert bytes_of(dataset, frame, precision=17) is None


def test_bytes_of_header_and_codestream_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Eight bits in the codestream: not where the header stores twelve, nor where it allocates two bytes to eight."""
    dataset = encoded(tmp_path, walk(8, signed=False), 8)
    assert bytes_of(dataset, frame_of(dataset)) is not None
    assert bytes_of(dataset, frame_of(dataset), precision=12) is None
    dataset.BitsAllocated = 16
    assert pixels.QUICK_DECODERS[str(dataset.file_meta.TransferSyntaxUID)](dataset, SHAPE) is None


def test_fill_bytes_before_a_marker_are_no_damage(tmp_path: Path) -> None:
    """Any number of them may be there (T.81 B.1.1.2)."""
    stored = walk(12, signed=False)
    dataset = encoded(tmp_path, stored, 12)
    frame = frame_of(dataset)
    for at in (2, frame.index(START_OF_SCAN)):
        found = bytes_of(dataset, frame[:at] + b"\xff\xff" + frame[at:])
        assert found is not None
        assert np.array_equal(found.view(stored.dtype)[..., 0], stored)


def test_an_image_of_one_value_is_no_buffer_left_as_it_was(tmp_path: Path) -> None:
    """All bits set is what an untouched buffer looks like: pydicom judges it, and it is read."""
    for value in (0, 0xFFFF):
        stored = np.full(SHAPE, value, dtype=np.uint16)
        dataset = encoded(tmp_path / str(value), stored, 16)
        assert (bytes_of(dataset, frame_of(dataset)) is None) == (value > 0)
        assert np.array_equal(decoded(dataset, str(dataset.file_meta.TransferSyntaxUID), SHAPE), stored)


@pytest.mark.parametrize("raised", [AttributeError, OSError])
def test_a_system_without_files_in_memory_goes_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception]
) -> None:
    """No series fails for it."""

    def refuse(_name: str) -> int:
        raise raised

    stored = walk(12, signed=False)
    dataset = encoded(tmp_path, stored, 12)
    monkeypatch.setattr("os.memfd_create", refuse)
    assert bytes_of(dataset, frame_of(dataset)) is None
    assert np.array_equal(decoded(dataset, str(dataset.file_meta.TransferSyntaxUID), SHAPE), stored)


def test_damage_ends_as_it_does_with_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bit of the header and some behind it: refused by both ways or the same pixels, and no process ends."""
    dataset = encoded(tmp_path, walk(12, signed=False), 12)
    frame = frame_of(dataset)
    header = 8 * (frame.index(START_OF_SCAN) + 10)
    outcomes = set()
    for bit in [*range(header), *range(header, 8 * len(frame), 101)]:
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        quick = outcome(dataset, bytes(damaged))
        with monkeypatch.context() as patch:
            patch.setattr(pixels, "QUICK_DECODERS", {})
            assert outcome(dataset, bytes(damaged)) == quick
        outcomes.add(quick is None)
    assert outcomes == {True, False}


def outcome(dataset: FileDataset, frame: bytes) -> bytes | None:
    """Pixels, or None where it is refused."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    dataset.PixelData = encapsulate([frame])
    try:
        check_codestream(frame, syntax, expected_of(dataset))
        return decoded(dataset, syntax, SHAPE).tobytes()
    except (ReadingError, RuntimeError, ValueError):
        return None
