"""RLE frames: what is unpacked here is what pydicom unpacks, and what is not in order is left to it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pydicom.pixels.decoders.rle import _rle_decode_frame
from pydicom.pixels.encoders.native import _encode_row

from vaeseg.io.rle import HEADER, unpacked_frame

N_PIXELS = 300


def packed(values: np.ndarray) -> bytes:
    """A segment as pydicom packs it, without padding."""
    return bytes(_encode_row(values.tobytes()))


def framed(*segments: bytes) -> bytes:
    starts = HEADER.size + np.cumsum([0, *map(len, segments)])[:-1]
    offsets = [*map(int, starts), *[0] * (15 - len(segments))]
    return HEADER.pack(len(segments), *offsets) + b"".join(segments)


def by_pydicom(frame: bytes, bytes_allocated: int) -> bytes | None:
    """None where it refuses, or says that there is too much."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return bytes(_rle_decode_frame(frame, 1, N_PIXELS, 1, 8 * bytes_allocated))
        except (ValueError, UserWarning):
            return None


def noise(values: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, N_PIXELS).astype(np.uint8)


@pytest.mark.parametrize("bytes_allocated", [1, 2, 4])
@pytest.mark.parametrize("values", [1, 2, 256])
def test_frames_in_order_are_unpacked_as_pydicom_has_them(bytes_allocated: int, values: int) -> None:
    """Runs, literals and both, padded or not, of any number of segments."""
    segments = [packed(noise(values, seed)) for seed in range(bytes_allocated)]
    for frame in (framed(*segments), framed(*[segment + b"\0" for segment in segments])):
        pixels = unpacked_frame(frame, N_PIXELS, bytes_allocated)
        assert pixels is not None
        assert pixels.tobytes() == by_pydicom(frame, bytes_allocated)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        framed(packed(noise(256))[:-1]),
        framed(packed(noise(256)[:-1])),
        framed(packed(noise(256)[:-2]) + b"\1"),
        framed(packed(noise(256)) + b"\0\7"),
        framed(packed(noise(256)) + b"\x81\0"),
        framed(packed(noise(256)) + b"\x81\1\x80"),
        framed(packed(noise(256)) + b"\x7f" + b"\x80" * 128),
        framed(packed(noise(256)), packed(noise(256))),
    ],
    ids=[
        "empty",
        "cut",
        "one too few",
        "no bytes of a literal",
        "one too many",
        "run",
        "run, nothing",
        "literal",
        "two segments",
    ],
)
def test_what_is_not_in_order_is_left_to_pydicom(frame: bytes) -> None:
    """Too short, too long, or segments for another number of bytes."""
    assert unpacked_frame(frame, N_PIXELS, 1) is None


def test_damage_is_never_taken_where_pydicom_refuses() -> None:
    """A bit that flips anywhere: the same bytes as pydicom's, or none."""
    frame = framed(packed(noise(4)), packed(noise(256)))
    random, taken = np.random.default_rng(3), 0
    for _ in range(2000):
        damaged = bytearray(frame)
        damaged[random.integers(len(frame))] ^= 1 << int(random.integers(8))
        pixels = unpacked_frame(bytes(damaged), N_PIXELS, 2)
        if pixels is not None:
            assert pixels.tobytes() == by_pydicom(bytes(damaged), 2)
            taken += 1
    assert taken > 100


def test_a_segment_that_no_encoder_writes_is_not_unpacked() -> None:
    """A file of runs would unpack to 64 times its size: 300 MB to 19 GB."""
    whole = b"\x81\0" * N_PIXELS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rle.rle.decode_segment", lambda segment: pytest.fail(f"{len(segment)} bytes were unpacked"))
        assert unpacked_frame(framed(whole + b"\x80\x80"), N_PIXELS, 1) is None
    assert unpacked_frame(framed(b"\0\7" * N_PIXELS + b"\0"), N_PIXELS, 1) is not None
