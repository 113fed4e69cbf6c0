"""Whole steps of intensity say what floating point says, to within half a step."""

import numpy as np
import pytest
import torch

from vaeseg.config import PreprocessingConfig
from vaeseg.geometry.intensity import intensity_ranges, quantised
from vaeseg.models.preprocessing import normalise

VOLUME = np.random.default_rng(7).integers(-1024, 3072, (3, 20, 20)).astype(np.int16)
PREPROCESSING = [
    PreprocessingConfig(intensity="minmax"),
    PreprocessingConfig(window_low_hu=-1000, window_high_hu=400),
    PreprocessingConfig(window_low_hu=-160.5, window_high_hu=239.25),
    PreprocessingConfig(intensity="volume"),
    PreprocessingConfig(intensity="slice"),
]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_quantised_agrees_with_what_inference_sees(preprocessing: PreprocessingConfig, bits: int) -> None:
    """A network is trained on steps and applied to float32: both lie within half a step of each other everywhere."""
    ranges = intensity_ranges(VOLUME, preprocessing)
    steps = quantised(VOLUME, ranges, bits)
    exact = normalise(torch.from_numpy(VOLUME), *torch.from_numpy(ranges).unbind(1)).numpy()
    full = 2**bits - 1
    assert steps.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(steps.astype(np.float64) / full - exact).max() <= 0.5 / full + 1e-6
    if preprocessing.intensity in ("minmax", "window"):
        assert (steps.min(), steps.max()) == (0, full)


@pytest.mark.parametrize(
    ("low", "high"), [(np.nan, 400), (-1000, np.nan), (-np.inf, np.inf), (0, 0), (1, -1), (-1e39, 0), (0, 1e39)]
)
def test_a_window_is_of_numbers_with_the_lower_first(low: float, high: float) -> None:
    """No pixel has a place in a window without a bound, nor float32 in one that is too far away."""
    with pytest.raises(ValueError, match="impossible preprocessing"):
        PreprocessingConfig(window_low_hu=low, window_high_hu=high)


def test_a_constant_volume_is_zero() -> None:
    """A volume of one value has no range; it becomes 0 as in floating point."""
    assert not quantised(np.full((1, 2, 2), 40, dtype=np.int16), np.array([[40, 40]], dtype=np.float32), 8).any()


def test_a_view_in_another_order_is_the_same() -> None:
    """Mirrored and transposed volumes are looked up voxel by voxel."""
    view = VOLUME.transpose(0, 2, 1)[:, ::-1]
    ranges = np.tile(np.array([0, 100], dtype=np.float32), (3, 1))
    assert np.array_equal(quantised(view, ranges, 8), quantised(np.ascontiguousarray(view), ranges, 8))


def test_ranges_are_those_of_their_slices() -> None:
    """A window looks at nothing, min-max at the volume; the others reach from -2 to +4 deviations (plus 4)."""
    volume = np.array([[[-5, 7]], [[100, 4]]], dtype=np.int16)

    def ranges(intensity: str) -> list[list[float]]:
        return intensity_ranges(volume, PreprocessingConfig(intensity=intensity)).tolist()  # type: ignore[arg-type]

    assert ranges("window") == [[-1000, 400]] * 2
    assert ranges("minmax") == [[-5, 100]] * 2
    assert ranges("slice") == [[1 - 2 * 10, 1 + 4 * 10], [52 - 2 * 52, 52 + 4 * 52]]
    deviation = float(volume.std()) + 4
    expected = [26.5 - 2 * deviation, 26.5 + 4 * deviation]
    assert ranges("volume") == [pytest.approx(expected)] * 2
