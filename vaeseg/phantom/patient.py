"""One synthetic patient: drawn from (seed, index), painted slab by slab, scanned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vaeseg.config import PhantomConfig
from vaeseg.phantom.acquisition import (
    Acquisition,
    acquire_slice,
    draw_acquisition,
    pixel_centres_mm,
    scan_geometry,
)
from vaeseg.phantom.anatomy import Anatomy, draw_anatomy
from vaeseg.phantom.canvas import Canvas, Hounsfield
from vaeseg.phantom.distractors import Distractors, draw_distractors, paint_distractors
from vaeseg.phantom.growth import draw_tumours
from vaeseg.phantom.organs import paint_slice
from vaeseg.phantom.skeleton import paint_bones
from vaeseg.phantom.texture import Texture, draw_texture
from vaeseg.phantom.tumours import Tumour, label_tumour, paint_tumour
from vaeseg.phantom.vessels import Vessels, draw_vessels, paint_vessels
from vaeseg.records import MM3_PER_ML, BoolArray, FloatArray, VolumeGeometry

SLAB_PLANES = 16
"""Planes painted at once: enough to share the cost of small shapes, few enough to stay in the cache."""

CHEST_MARGIN_MM = (18.0, 14.0)
"""How far a whole chest is scanned below and above the lungs."""

ANATOMY, VESSELS, TUMOURS, DISTRACTORS, ACQUISITION, TEXTURE, COVERAGE, NOISE = range(8)
"""Independent streams of random numbers, so that a change in one part leaves the others as they were."""


@dataclass(frozen=True, kw_only=True)
class TumourTruth:
    """What is known about one tumour of a phantom."""

    kind: str
    """A name of `TumourKind`."""
    diameter_mm: float
    """Of the sphere with the whole tumour's volume, before the lung's border or the scan's end cuts it."""
    volume_ml: float
    """Of its voxels in the label."""
    n_voxels: int
    """In the label."""
    centre_lps_mm: tuple[float, float, float]
    """LPS mm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PhantomPatient:
    """A synthetic CT volume with its label."""

    index: int
    """From 0."""
    volume_hu: npt.NDArray[np.int16]
    """(K, J, I) HU; k to the head, j to the back, i to the patient's left."""
    label: BoolArray
    """(K, J, I) true where a voxel's centre lies in a tumour."""
    geometry: VolumeGeometry
    """Of both."""
    tumours: tuple[TumourTruth, ...]
    """Those with at least one voxel in the label."""
    acquisition: Acquisition
    """How it was scanned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Subject:
    anatomy: Anatomy
    vessels: Vessels
    tumours: list[Tumour]
    distractors: Distractors
    acquisition: Acquisition


def generate_patient(seed: int, index: int, config: PhantomConfig) -> PhantomPatient:
    """Make one patient; depends on nothing but the arguments, bit for bit.

    Args:
        seed: of the whole archive, at least 0; `config.seed` plays no part here.
        index: which patient, from 0.
        config: size of the images and what part of the chest is scanned.

    Returns:
        Volume, label, geometry and truth. Anatomy in mm is the same whatever the image size.
    """
    subject = _draw_subject(seed, index, config)
    z_mm = _slice_centres(_rng(seed, index, COVERAGE), subject, config)
    geometry = scan_geometry(subject.acquisition, config.image_size, z_mm)
    side_mm = pixel_centres_mm(subject.acquisition, config.image_size)
    texture = draw_texture(_rng(seed, index, TEXTURE), side_mm, side_mm)
    volume = np.empty(geometry.shape, dtype=np.int16)
    for k, tissue in _tissue_slices(subject, texture, z_mm, side_mm):
        volume[k] = acquire_slice(tissue, subject.acquisition, _rng(seed, index, NOISE, k))
    label, truths = _label(subject, geometry, z_mm, side_mm)
    return PhantomPatient(
        index=index,
        volume_hu=volume,
        label=label,
        geometry=geometry,
        tumours=truths,
        acquisition=subject.acquisition,
    )


def lung_mask(seed: int, index: int, config: PhantomConfig) -> BoolArray:
    """Both lungs of `generate_patient(seed, index, config)`, with vessels and tumours: (K, J, I), by voxel centres."""
    subject = _draw_subject(seed, index, config)
    z_mm = _slice_centres(_rng(seed, index, COVERAGE), subject, config)
    side_mm = pixel_centres_mm(subject.acquisition, config.image_size)
    planes = []
    for z in z_mm:
        x, y = subject.anatomy.to_body(side_mm[None, :], side_mm[:, None], z)
        planes.append(np.asarray(subject.anatomy.lung(x, y, z) > 0))
    return np.stack(planes)


def _rng(seed: int, index: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, *stream])))


def _draw_subject(seed: int, index: int, config: PhantomConfig) -> _Subject:
    anatomy = draw_anatomy(_rng(seed, index, ANATOMY))
    tumours = draw_tumours(_rng(seed, index, TUMOURS), anatomy, config.tumour_free_share, config.max_tumours)
    return _Subject(
        anatomy=anatomy,
        vessels=draw_vessels(_rng(seed, index, VESSELS), anatomy),
        tumours=tumours,
        distractors=draw_distractors(_rng(seed, index, DISTRACTORS), anatomy, tumours),
        acquisition=draw_acquisition(_rng(seed, index, ACQUISITION), anatomy, config),
    )


def _slice_centres(rng: np.random.Generator, subject: _Subject, config: PhantomConfig) -> FloatArray:
    """(K,) z of the slices: the whole chest, or a part of it about one of the tumours."""
    low, high = -CHEST_MARGIN_MM[0], subject.anatomy.lung_height + CHEST_MARGIN_MM[1]
    if config.z_extent_mm is not None:
        extent = config.z_extent_mm
        focus = float(rng.uniform(0.2, 0.8)) * subject.anatomy.lung_height
        if subject.tumours:
            tumour = subject.tumours[int(rng.integers(len(subject.tumours)))]
            focus = float(tumour.centre[2]) + float(rng.uniform(-0.3, 0.3)) * extent
        low = float(np.clip(focus - 0.5 * extent, low, max(low, high - extent)))
        high = low + extent
    count = max(2, int((high - low) / subject.acquisition.spacing_mm))
    low = float(np.rint(low))
    return np.asarray(low + subject.acquisition.spacing_mm * np.arange(count))


def _tissue_slices(
    subject: _Subject, texture: Texture, z_mm: FloatArray, side_mm: Hounsfield
) -> Iterator[tuple[int, Hounsfield]]:
    """(k, (J, I) float32 HU without blur or noise) for each slice."""
    planes = subject.acquisition.planes_per_slice()
    per_slab = max(1, SLAB_PLANES // planes)
    step = subject.acquisition.spacing_mm / planes
    within = (np.arange(planes) - 0.5 * (planes - 1)) * step
    for first in range(0, len(z_mm), per_slab):
        heights = (z_mm[first : first + per_slab, None] + within).ravel()
        canvas = _canvas(heights, side_mm)
        _paint(canvas, subject, texture)
        slices = canvas.hu.reshape(-1, planes, len(side_mm), len(side_mm))
        for n, group in enumerate(slices):
            yield first + n, group[0] if planes == 1 else group.mean(axis=0)


def _canvas(z_mm: FloatArray, side_mm: Hounsfield) -> Canvas:
    hu = np.empty((len(z_mm), len(side_mm), len(side_mm)), dtype=np.float32)
    return Canvas(hu=hu, z_mm=z_mm, y_mm=side_mm, x_mm=side_mm)


def _paint(canvas: Canvas, subject: _Subject, texture: Texture) -> None:
    for n in range(len(canvas.z_mm)):
        paint_slice(canvas, n, subject.anatomy, texture)
    paint_bones(canvas, subject.anatomy)
    paint_distractors(canvas, subject.anatomy, subject.distractors)
    paint_vessels(canvas, subject.anatomy, subject.vessels)
    for tumour in subject.tumours:
        paint_tumour(canvas, subject.anatomy, tumour)


def _label(
    subject: _Subject, geometry: VolumeGeometry, z_mm: FloatArray, side_mm: Hounsfield
) -> tuple[BoolArray, tuple[TumourTruth, ...]]:
    label = np.zeros(geometry.shape, dtype=np.bool_)
    canvas = Canvas(hu=np.empty((0, 0, 0), dtype=np.float32), z_mm=z_mm, y_mm=side_mm, x_mm=side_mm)
    truths = []
    for tumour in subject.tumours:
        n_voxels = label_tumour(canvas, subject.anatomy, tumour, label)
        if n_voxels:
            truths.append(_truth(tumour, n_voxels, geometry))
    return label, tuple(truths)


def _truth(tumour: Tumour, n_voxels: int, geometry: VolumeGeometry) -> TumourTruth:
    x, y, z = (round(float(value), 3) for value in tumour.centre)
    return TumourTruth(
        kind=tumour.kind.value,
        diameter_mm=round(tumour.diameter_mm, 3),
        volume_ml=n_voxels * geometry.voxel_volume_mm3 / MM3_PER_ML,
        n_voxels=n_voxels,
        centre_lps_mm=(x, y, z),
    )
