"""What a subject is recognised by."""

import numpy as np

from vaeseg.io.identity import content_token

VOLUME = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 1000


def test_token_is_of_voxels_alone() -> None:
    """A view and a float copy with rounding noise have the token; another voxel, shape or order has another."""
    token = content_token(VOLUME)
    assert len(token) == 16
    assert content_token(np.asfortranarray(VOLUME)) == token
    assert content_token(VOLUME.astype(np.float32) + 0.3) == token
    changed = VOLUME.copy()
    changed[1, 2, 3] += 1
    others = [changed, VOLUME.reshape(2, 4, 3), VOLUME[::-1]]
    assert len({token, *(content_token(other) for other in others)}) == 4
