"""The scanner: grid, slice thickness, point spread, kernel and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from vaeseg.config import PhantomConfig
from vaeseg.geometry.affine import lps_from_kji
from vaeseg.phantom.anatomy import Anatomy
from vaeseg.phantom.canvas import Hounsfield
from vaeseg.records import FloatArray, VolumeGeometry

SPACINGS_MM = (0.7, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0)
SPACING_SHARES = (0.06, 0.16, 0.18, 0.12, 0.14, 0.16, 0.10, 0.08)

NATIVE_SIZE = 512
"""Pixels along a side of the reconstruction that noise and blur are given for."""

THICK_MM = 2.4
"""Slices thicker than this are averaged from several planes."""

HU_RANGE = (-1024.0, 3071.0)
"""What 12 bits hold."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A reconstruction kernel."""

    name: str
    blur_px: float
    """Standard deviation of the point spread, native pixels."""
    noise_px: float
    """Correlation of the noise, as the standard deviation of its smoothing in native pixels."""
    edge: float
    """Unsharp share: above 0 overshoots at edges."""
    noise_factor: float
    """Noise against a standard kernel's."""


KERNELS = (
    Kernel(name="SOFT", blur_px=0.95, noise_px=1.15, edge=0.0, noise_factor=0.7),
    Kernel(name="STANDARD", blur_px=0.75, noise_px=0.8, edge=0.0, noise_factor=1.0),
    Kernel(name="LUNG", blur_px=0.6, noise_px=0.5, edge=0.55, noise_factor=1.5),
)


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """How one patient was scanned."""

    kernel: Kernel
    field_of_view_mm: float
    spacing_mm: float
    """Between slices; also their thickness."""
    noise_hu: float
    """Standard deviation at the centre of the body, before image size is taken into account."""
    kvp: int
    tube_current_ma: int

    def planes_per_slice(self) -> int:
        """How many planes are averaged into one slice."""
        return 1 if self.spacing_mm <= THICK_MM else round(self.spacing_mm / 2.0)


def draw_acquisition(rng: np.random.Generator, anatomy: Anatomy, config: PhantomConfig) -> Acquisition:
    """One patient's scan."""
    body = 2 * (anatomy.cavity_width + anatomy.wall + anatomy.fat)
    spacing = float(rng.choice(SPACINGS_MM, p=SPACING_SHARES))
    kernel = KERNELS[int(rng.choice(3, p=(0.3, 0.45, 0.25)))]
    noise = float(np.clip(np.exp(rng.normal(np.log(12.0), 0.45)) * kernel.noise_factor, 5.0, 40.0))
    return Acquisition(
        kernel=kernel,
        field_of_view_mm=float(np.rint(np.clip(body * rng.uniform(0.94, 1.15), 300, 450))),
        spacing_mm=config.slice_spacing_mm or spacing,
        noise_hu=noise,
        kvp=int(rng.choice((100, 120, 140))),
        tube_current_ma=int(rng.integers(60, 400)),
    )


def pixel_centres_mm(acquisition: Acquisition, image_size: int) -> Hounsfield:
    """(image_size,) float32: pixel centres along a side, about the isocentre."""
    pixel = acquisition.field_of_view_mm / image_size
    return ((np.arange(image_size) - 0.5 * (image_size - 1)) * pixel).astype(np.float32)


def scan_geometry(acquisition: Acquisition, image_size: int, z_mm: FloatArray) -> VolumeGeometry:
    """Geometry of the scan: an upright gantry, slices towards the head."""
    pixel = acquisition.field_of_view_mm / image_size
    corner = -0.5 * (image_size - 1) * pixel
    affine = lps_from_kji(
        np.array([corner, corner, float(z_mm[0])]),
        np.array([1.0, 0.0, 0.0]),
        np.array([0.0, 1.0, 0.0]),
        np.array([0.0, 0.0, acquisition.spacing_mm]),
        (pixel, pixel),
    )
    return VolumeGeometry(shape=(len(z_mm), image_size, image_size), lps_from_kji=affine)


def acquire_slice(tissue: Hounsfield, acquisition: Acquisition, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """What the scanner makes of a (J, I) plane of tissue: blur, edges, noise, 12 bits."""
    ratio = NATIVE_SIZE / len(tissue)
    image = _blurred(tissue, acquisition.kernel.blur_px / ratio)
    if acquisition.kernel.edge > 0:
        image += np.float32(acquisition.kernel.edge) * (image - _blurred(image, 1.1 / ratio))
    image += _noise(acquisition, image.shape, ratio, rng)
    np.clip(image, *HU_RANGE, out=image)
    return np.rint(image, out=image).astype(np.int16)


def _noise(acquisition: Acquisition, shape: tuple[int, ...], ratio: float, rng: np.random.Generator) -> Hounsfield:
    """Correlated noise that is strongest on the axis, where the most tissue lies in the way.

    A coarser grid averages `ratio` x `ratio` native pixels, which leaves less of it.
    """
    sigma = acquisition.kernel.noise_px
    noise = _blurred(rng.standard_normal(shape, dtype=np.float32), sigma / ratio)
    averaging = sigma / np.sqrt(sigma**2 + max(0.0, ratio**2 - 1) / 12)
    axis = np.linspace(-1, 1, shape[0], dtype=np.float32)
    centre = np.float32(0.6) + np.float32(0.5) * np.exp(-2.0 * axis * axis)[:, None] * np.exp(-2.0 * axis * axis)
    noise *= centre * np.float32(acquisition.noise_hu * averaging / float(noise.std()))
    return noise


def _blurred(image: Hounsfield, sigma: float) -> Hounsfield:
    if sigma < 0.2:
        return image.copy()
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=2.5), dtype=np.float32)
