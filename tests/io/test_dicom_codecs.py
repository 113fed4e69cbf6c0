"""Compressed pixels: lossless means voxel for voxel, and a damaged stream is never a readable wrong volume."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from encoding import to_jpeg_lossless
from factories import CtSeries, axial_affine_ras, save, stored_values, write_series
from jpeg_ls import encode_array as jpeg_ls_encode
from openjpeg.utils import encode_array as openjpeg_encode
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from reading import assert_volume, judge, read_one, reasons

from vaeseg.io.codestream import PixelFormat, check_codestream

CODECS = ["rle", "jpegls", "j2k", "jpeg_lossless"]
SYNTAXES = {"rle": RLELossless, "jpegls": JPEGLSLossless, "j2k": JPEG2000Lossless, "jpeg_lossless": JPEGLosslessSV1}
SLICES = 3
END = b"\xff\xd9"


def smooth(signed: bool = False, side: int = 32) -> npt.NDArray[np.uint16] | npt.NDArray[np.int16]:
    """(3, side, side) 12-bit values that compress as images do."""
    noise = np.random.default_rng(5).normal(0, 4, (SLICES, side, side))
    walk = np.cumsum(np.cumsum(noise, axis=1), axis=2)
    if signed:
        return walk.clip(-2048, 2047).astype(np.int16)
    return (walk + 1500).clip(0, 4095).astype(np.uint16)


def compressed_with(syntax: UID, **options: object) -> Callable[[FileDataset], None]:
    def compress(dataset: FileDataset) -> None:
        dataset.compress(syntax, generate_instance_uid=False, **options)

    return compress


def write_compressed(directory: Path, codec: str, stored: npt.NDArray[np.generic], bits: int = 12) -> CtSeries:
    """A series of 12-bit values in one of CODECS."""
    bit_fields = {"BitsStored": bits, "HighBit": bits - 1}
    signed = {"RescaleIntercept": "0"} if stored.dtype.kind == "i" else {}
    if codec == "jpeg_lossless":
        series = write_series(directory, stored, **bit_fields, **signed)
        for path in series.paths:
            to_jpeg_lossless(path)
        return series
    return write_series(directory, stored, encode=compressed_with(SYNTAXES[codec]), **bit_fields, **signed)


def frame_of(path: Path) -> bytes:
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def replace_frame(path: Path, fragments: Sequence[bytes]) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([b"".join(fragments)])
    dataset["PixelData"].is_undefined_length = True
    save(dataset, path)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_lossless_codecs_voxel_for_voxel(tmp_path: Path, codec: str, signed: bool) -> None:
    """The file has the syntax meant, and the volume is what was encoded, negative values too."""
    series = write_compressed(tmp_path, codec, smooth(signed))
    assert pydicom.dcmread(series.paths[0]).file_meta.TransferSyntaxUID == SYNTAXES[codec]
    volume = read_one(tmp_path)
    hu = series.stored.astype(int) - (0 if signed else 1024)
    assert_volume(volume, np.maximum(hu, -1024), axial_affine_ras())
    assert set(volume.warnings) <= {"padding_clipped", "no_negative_values"}


def test_near_lossless_is_read_with_a_warning(tmp_path: Path) -> None:
    """JPEG-LS with an error of 2: within it, and said to be lossy."""
    series = write_series(
        tmp_path,
        smooth(),
        encode=compressed_with(JPEGLSNearLossless, jls_error=2),
        BitsStored=12,
        HighBit=11,
    )
    volume = read_one(tmp_path)
    assert np.abs(volume.volume_hu - np.maximum(series.hu, -1024)).max() <= 2
    assert "lossy_compression" in volume.warnings


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("end", [b"", END])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.97])
def test_a_cut_frame_is_refused(tmp_path: Path, codec: str, end: bytes, share: float) -> None:
    """The fragment is short while delimiters are right; also where an end marker was put after the cut."""
    series = write_compressed(tmp_path, codec, smooth())
    frame = frame_of(series.paths[1])
    replace_frame(series.paths[1], [frame[: int(len(frame) * share)], end])
    has_no_end = codec != "rle" and not end
    assert set(reasons(tmp_path)) <= (
        {"truncated_pixel_data"} if has_no_end else {"truncated_pixel_data", "decode_failed"}
    )


@pytest.mark.parametrize("codec", CODECS)
def test_a_frame_with_a_hole_is_refused(tmp_path: Path, codec: str) -> None:
    """A tenth missing from the middle, both ends whole."""
    series = write_compressed(tmp_path, codec, smooth())
    frame = frame_of(series.paths[1])
    replace_frame(series.paths[1], [frame[: len(frame) // 2], frame[len(frame) * 6 // 10 :]])
    assert set(reasons(tmp_path)) <= {"truncated_pixel_data", "decode_failed"}


@pytest.mark.parametrize("codec", ["explicit", "deflated", *CODECS])
def test_a_file_cut_anywhere_is_never_a_wrong_volume(tmp_path: Path, codec: str) -> None:
    """Forty places from the first byte to the last but one: refused, or the other slices with a warning."""
    if codec in CODECS:
        series = write_compressed(tmp_path, codec, smooth())
    else:
        syntax = {"explicit": ExplicitVRLittleEndian, "deflated": UID("1.2.840.10008.1.2.1.99")}[codec]
        series = write_series(tmp_path, smooth(), TransferSyntaxUID=syntax)
    whole = series.paths[2].read_bytes()
    before = np.maximum(series.hu, -1024)
    for cut in np.linspace(0, len(whole) - 2, 40).astype(int):
        series.paths[2].write_bytes(whole[:cut])
        for judged in judge(tmp_path):
            if judged.volume is not None and len(judged.volume.volume_hu) == SLICES:
                np.testing.assert_array_equal(judged.volume.volume_hu, before, err_msg=f"{codec} cut at {cut}")
            elif judged.volume is not None:
                np.testing.assert_array_equal(judged.volume.volume_hu, before[:2])
                assert "instances_left_out" in judged.warnings, f"{codec} cut at {cut}"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("named", [*SYNTAXES.values(), ExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit])
def test_a_wrong_transfer_syntax_is_never_a_wrong_volume(tmp_path: Path, codec: str, named: UID) -> None:
    """The pinned decoder either knows the stream after all or refuses it; there is no second guess."""
    series = write_compressed(tmp_path, codec, smooth())
    for path in series.paths:
        raw = path.read_bytes()
        position = raw.index(SYNTAXES[codec].encode(), 132)
        length = int.from_bytes(raw[position - 2 : position], "little")
        path.write_bytes(raw[:position] + named.encode()[:length].ljust(length, b"\0") + raw[position + length :])
    for judged in judge(tmp_path):
        assert judged.reason is not None or np.array_equal(judged.volume.volume_hu, np.maximum(series.hu, -1024))  # type: ignore[union-attr]


def test_native_pixels_under_a_compressed_syntax_are_refused(tmp_path: Path) -> None:
    """And the other way round, compressed ones under a native syntax, even where there are bytes enough."""
    for path in write_series(tmp_path / "a", MediaStorageSOPInstanceUID="1.2.3").paths:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    assert reasons(tmp_path / "a") == {"decode_failed": 6}
    noise = np.random.default_rng(0).integers(0, 65535, (3, 16, 16)).astype(np.uint16)
    series = write_series(tmp_path / "b", noise, encode=compressed_with(RLELossless))
    for path in series.paths:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))
    assert len(pydicom.dcmread(series.paths[0]).PixelData) > 512
    assert reasons(tmp_path / "b") == {"decode_failed": 3}


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.840.10008.1.2.6", "1.2.3.4", "rubbish"])
def test_a_syntax_without_decoder_has_its_own_reason(tmp_path: Path, syntax: str) -> None:
    """Private, retired and made up."""
    for path in write_compressed(tmp_path, "rle", smooth()).paths:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"1.2.840.10008.1.2.5\0", syntax.encode().ljust(20, b"\0"), 1))
    assert set(reasons(tmp_path)) == {"unsupported_transfer_syntax"}


@pytest.mark.parametrize("codec", ["jpegls", "j2k", "jpeg_lossless"])
@pytest.mark.parametrize("size", [{"Rows": 16}, {"Columns": 64}, {"Rows": 64, "Columns": 16}])
def test_a_codestream_of_another_size_is_refused(tmp_path: Path, codec: str, size: dict[str, int]) -> None:
    """Before the decoder allocates what it claims; 64 x 16 has as many pixels as 32 x 32."""
    series = write_compressed(tmp_path, codec, smooth())
    for path in series.paths:
        dataset = pydicom.dcmread(path)
        for keyword, value in size.items():
            setattr(dataset, keyword, value)
        save(dataset, path)
    assert reasons(tmp_path) == {"decode_failed": SLICES}


def test_j2k_unsigned_under_a_signed_header(tmp_path: Path) -> None:
    """A known encoder fault: the bit patterns are right, the header's sign is applied, and a warning says so."""
    stored = smooth(signed=True).clip(-1000, 2047).astype(np.int16)
    patterns = (stored & 0x0FFF).astype(np.uint16)
    series = write_series(
        tmp_path, patterns, encode=compressed_with(JPEG2000Lossless), BitsStored=12, HighBit=11, RescaleIntercept="0"
    )
    for path in series.paths:
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation = 1
        save(dataset, path)
    volume = read_one(tmp_path)
    assert_volume(volume, stored, axial_affine_ras())
    assert volume.warnings == ("codestream_differs",)


@pytest.mark.parametrize("codec", ["j2k", "jpegls"])
def test_fewer_bits_than_a_signed_header_says_are_refused(tmp_path: Path, codec: str) -> None:
    """12 unsigned bits under 16 signed ones: bit 11 may be a sign or a value."""
    series = write_compressed(tmp_path, codec, smooth())
    for path in series.paths:
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        save(dataset, path)
    assert reasons(tmp_path) == {"decode_failed": SLICES}


@pytest.mark.parametrize("codec", ["j2k", "jpegls"])
def test_more_bits_than_the_header_says_are_read_if_they_fit(tmp_path: Path, codec: str) -> None:
    """Encoders that always say 16: fine while no value needs more than BitsStored."""
    for name, low, expected in [("fits", 0, {"readable": SLICES}), ("not", 3000, {"decode_failed": SLICES})]:
        stored = (smooth() + low).astype(np.uint16)
        series = write_compressed(tmp_path / name, codec, stored, bits=16)
        for path in series.paths:
            dataset = pydicom.dcmread(path)
            dataset.BitsStored, dataset.HighBit = 12, 11
            save(dataset, path)
        assert reasons(tmp_path / name) == expected


@pytest.mark.parametrize("padding", [b"\0", b"\0\0\0", b"\xff", b" "])
def test_padding_after_the_end_marker_is_no_damage(tmp_path: Path, padding: bytes) -> None:
    """Frames are padded to even length, and not by every encoder with zero."""
    series = write_compressed(tmp_path, "jpegls", smooth())
    frame = frame_of(series.paths[1]).rstrip(b"\0")
    replace_frame(series.paths[1], [frame, padding])
    assert_volume(read_one(tmp_path), np.maximum(series.hu, -1024), axial_affine_ras())


def test_a_frame_in_many_fragments(tmp_path: Path) -> None:
    """A frame may be cut into fragments of any even length (PS3.5 A.4)."""
    series = write_compressed(tmp_path, "j2k", smooth())
    for path in series.paths:
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([frame_of(path)], fragments_per_frame=3)
        dataset["PixelData"].is_undefined_length = True
        save(dataset, path)
    assert_volume(read_one(tmp_path), np.maximum(series.hu, -1024), axial_affine_ras())


def test_damaged_rle_never_ends_the_process(tmp_path: Path) -> None:
    """Flipped bits in run lengths run past the segment; each of them is an error or a volume, never a panic."""
    series = write_compressed(tmp_path, "rle", smooth())
    frame = frame_of(series.paths[1])
    random = np.random.default_rng(11)
    for _ in range(60):
        damaged = bytearray(frame)
        damaged[random.integers(len(frame))] ^= 1 << int(random.integers(8))
        replace_frame(series.paths[1], [bytes(damaged)])
        assert set(reasons(tmp_path)) <= {"readable", "decode_failed", "truncated_pixel_data"}


def test_what_the_codec_says_stays_off_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libjpeg writes to standard error; that is heard and not passed on."""
    series = write_compressed(tmp_path, "jpeg_lossless", smooth())
    frame = frame_of(series.paths[1])
    replace_frame(series.paths[1], [frame[: len(frame) // 2], END])
    assert judge(tmp_path)[0].detail == "the JPEG data is damaged or ends early"
    assert capfd.readouterr().err == ""


def in_tiles(dataset: FileDataset) -> None:
    """JPEG 2000 in nine tiles, by Pillow."""
    pixels = np.frombuffer(dataset.PixelData, np.uint8).reshape(96, 96)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG2000", tile_size=(32, 32), irreversible=False, no_jp2=True)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([encoded.getvalue()])
    dataset["PixelData"].is_undefined_length = True


def test_missing_tiles_are_refused(tmp_path: Path) -> None:
    """OpenJPEG fills in tiles that are not there: whole in nine tiles it is read, cut between two it is refused."""
    stored = (smooth(side=96) // 16).astype(np.uint8)
    series = write_series(tmp_path, stored, encode=in_tiles)
    assert_volume(read_one(tmp_path), np.maximum(series.hu, -1024), axial_affine_ras())
    frame = frame_of(series.paths[1])
    starts = [at for at in range(len(frame)) if frame[at : at + 4] == b"\xff\x90\x00\x0a"]
    assert len(starts) == 9
    for start in starts[1:]:
        replace_frame(series.paths[1], [frame[:start], END])
        assert reasons(tmp_path) == {"truncated_pixel_data": SLICES}


def test_a_lossy_stream_under_a_lossless_syntax_is_warned_of(tmp_path: Path) -> None:
    """The codestream says so itself: the irreversible wavelet of JPEG 2000, a difference that JPEG-LS allows."""

    def under(syntax: UID, frame_of: Callable[[npt.NDArray[Any]], bytes]) -> Callable[[FileDataset], None]:
        def encode(dataset: FileDataset) -> None:
            dataset.PixelData = encapsulate([frame_of(dataset.pixel_array)])
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True

        return encode

    def jpeg2000(ratio: float) -> Callable[[npt.NDArray[Any]], bytes]:
        ratios = {"compression_ratios": [ratio]} if ratio > 1 else {}
        return lambda plane: bytes(
            openjpeg_encode(plane, bits_stored=12, photometric_interpretation=2, use_mct=False, **ratios)
        )

    frames: dict[str, tuple[UID, Callable[[npt.NDArray[Any]], bytes]]] = {
        "j2k": (JPEG2000Lossless, jpeg2000(1)),
        "j2k, lossy": (JPEG2000Lossless, jpeg2000(4)),
        "jpegls": (JPEGLSLossless, lambda plane: bytes(jpeg_ls_encode(plane, 0))),
        "jpegls, lossy": (JPEGLSLossless, lambda plane: bytes(jpeg_ls_encode(plane, 3))),
    }
    for name, (syntax, frame_of) in frames.items():
        write_series(tmp_path / name, smooth(), encode=under(syntax, frame_of), BitsStored=12, HighBit=11)
        assert ("lossy_compression" in read_one(tmp_path / name).warnings) == name.endswith("lossy"), name


def test_a_damaged_header_of_a_scan_is_left_to_the_decoder() -> None:
    """JPEG-LS that claims 255 components in its scan, more than the frame has bytes for: it says nothing of loss."""
    plane = smooth(side=8)[0]
    expected = PixelFormat(shape=(8, 8), components=1, precision=12, is_signed=False)
    frame = bytearray(jpeg_ls_encode(plane, 3))
    assert check_codestream(bytes(frame), JPEGLSLossless, expected) == {"lossy_compression"}
    frame[frame.index(b"\xff\xda") + 4] = 255
    assert check_codestream(bytes(frame), JPEGLSLossless, expected) == frozenset()


def test_lossy_jpeg_is_read_with_a_warning(tmp_path: Path) -> None:
    """JPEG baseline of 8 bits: near the original, and said to be lossy."""

    def lossy(dataset: FileDataset) -> None:
        encoded = io.BytesIO()
        Image.fromarray(np.frombuffer(dataset.PixelData, np.uint8).reshape(32, 32)).save(encoded, "JPEG", quality=95)
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate([encoded.getvalue()])
        dataset["PixelData"].is_undefined_length = True

    series = write_series(tmp_path, (smooth() // 16).astype(np.uint8), encode=lossy)
    volume = read_one(tmp_path)
    assert np.abs(volume.volume_hu - np.maximum(series.hu, -1024)).max() <= 8
    assert volume.warnings == ("lossy_compression",)


@pytest.mark.parametrize("bits", [8, 12])
def test_rle_of_odd_size(tmp_path: Path, bits: int) -> None:
    """An odd number of pixels, whose segments are padded: no damage."""
    stored = (stored_values((SLICES, 5, 7)) % 200).astype(np.uint8 if bits == 8 else np.uint16)
    series = write_series(
        tmp_path,
        stored,
        BitsStored=bits,
        HighBit=bits - 1,
        encode=compressed_with(RLELossless, encoding_plugin="pydicom"),
    )
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


@pytest.mark.parametrize("signed", [False, True])
def test_rle_with_something_above_the_bits_stored(tmp_path: Path, signed: bool) -> None:
    """Twelve bits of sixteen count, whatever is in the others."""
    stored = smooth(signed)
    write_compressed(tmp_path / "clean", "rle", stored)
    above = (stored.view(np.uint16) & 0x0FFF) | 0xA000
    write_compressed(tmp_path / "above", "rle", above.view(stored.dtype))
    assert reasons(tmp_path / "above") == {"readable": SLICES}
    found, expected = read_one(tmp_path / "above"), read_one(tmp_path / "clean")
    np.testing.assert_array_equal(found.volume_hu, expected.volume_hu)


@pytest.mark.parametrize("cut", [8, 400])
def test_a_file_that_ends_within_its_frames_is_truncated(tmp_path: Path, cut: int) -> None:
    """At the delimiter behind them or in the middle of one: what is missing is pixels, and the header is fine."""
    path = write_compressed(tmp_path, "rle", smooth()).paths[2]
    path.write_bytes(path.read_bytes()[:-cut])
    assert reasons(tmp_path) == {"truncated_pixel_data": SLICES}
