"""Whether probabilities mean what they say: of the pixels called 0.7, seven in ten should be tumour."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.slices import ratio
from vaeseg.records import BoolArray

N_BINS = 20
"""Of equal width from 0 to 1."""


@dataclass(kw_only=True, eq=False)
class CalibrationHistogram:
    """Pixels counted by their probability; it grows with `add` and keeps its size."""

    n_pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(N_BINS, dtype=np.int64))
    """(N_BINS,) pixels whose probability lies in the bin; 1.0 lies in the last."""
    n_tumour: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(N_BINS, dtype=np.int64))
    """(N_BINS,) of these, pixels that are labelled."""
    sum_probability: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_BINS))
    """(N_BINS,) sum of their probabilities."""

    def add(self, probabilities: npt.NDArray[np.float32], labels: BoolArray) -> None:
        """Count the pixels of some slices.

        Args:
            probabilities: (K, S, T) in [0, 1].
            labels: (K, S, T) bool.

        Raises:
            ValueError: the shapes differ.
        """
        if probabilities.shape != labels.shape:
            raise ValueError(f"probabilities have shape {probabilities.shape}, labels {labels.shape}")
        for plane, label in zip(probabilities, labels, strict=True):
            bins = np.minimum((plane * N_BINS).astype(np.intp), N_BINS - 1).ravel()
            self.n_pixels += np.bincount(bins, minlength=N_BINS)
            self.n_tumour += np.bincount(bins[label.ravel()], minlength=N_BINS)
            self.sum_probability += np.bincount(bins, weights=plane.ravel(), minlength=N_BINS)

    @property
    def mean_probability(self) -> npt.NDArray[np.float64]:
        """(N_BINS,) mean probability of the pixels of each bin; NaN for an empty bin."""
        return ratio(self.sum_probability, self.n_pixels)

    @property
    def tumour_share(self) -> npt.NDArray[np.float64]:
        """(N_BINS,) share of the pixels of each bin that are labelled; NaN for an empty bin."""
        return ratio(self.n_tumour, self.n_pixels)

    def expected_error(self, from_bin: int = 0) -> float | None:
        """Expected calibration error: mean over pixels of |mean probability - share of tumour| of their bin.

        Args:
            from_bin: first bin that counts. Nearly all pixels of a CT are background with a probability of nearly 0,
                so that the error over all of them is tiny whatever the model does; from bin 1 on, it tells.

        Returns:
            Value in [0, 1]; None where no pixel counts.
        """
        pixels = self.n_pixels[from_bin:]
        if not pixels.any():
            return None
        apart = np.abs(self.sum_probability - self.n_tumour)[from_bin:]
        return float(apart.sum() / pixels.sum())
