"""What a subject is recognised by, whatever its files are called: tokens made from voxels, or from a pseudonym.

A model records the tokens of the subjects that it was trained on; an evaluation compares them with those of its own.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

TOKEN_DIGITS = 16
"""64 bits: among a million volumes, two differing ones share a token once in forty million archives."""


def content_token(volume_hu: npt.NDArray[Any]) -> str:
    """Digest of a volume's voxels, the same for a copy that was renamed, re-compressed or rescaled without loss.

    Args:
        volume_hu: (K, J, I) in axial order, any real dtype in the range of int16; fractions are rounded.

    Returns:
        16 hex digits of SHA-256 over shape and voxels.
    """
    digest = hashlib.sha256(repr(tuple(volume_hu.shape)).encode())
    for plane in volume_hu:  # one at a time: a view in axial order need not be contiguous
        whole = plane if plane.dtype == np.int16 else np.rint(plane)
        digest.update(np.ascontiguousarray(whole, dtype="<i2").tobytes())
    return digest.hexdigest()[:TOKEN_DIGITS]


def subject_token(subject_key: str) -> str:
    """Token of a DICOM subject: all series of a patient share it."""
    return f"subject:{subject_key}"
