"""Axial orientation: the array order and direction in which a model sees every volume.

Axial means k to the head, j to the back, i to the patient's left: the directions of a DICOM axial slice of a supine
patient, whatever order the file has. Only axes are swapped and mirrored; nothing is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from vaeseg.records import VolumeGeometry


@dataclass(frozen=True, kw_only=True)
class AxialOrder:
    """How to turn an array of some grid into axial order, and back."""

    axes: tuple[int, int, int]
    """Which array axis becomes k, j, i."""
    mirrored: tuple[bool, bool, bool]
    """Which of the new axes run backwards in the old array."""

    def to_axial(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View of a (K, J, I) array in axial order."""
        flips = tuple(slice(None, None, -1 if mirrored else None) for mirrored in self.mirrored)
        return array.transpose(self.axes)[flips]

    def from_axial(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View of an axial array in the order it came from; the inverse of `to_axial`."""
        flips = tuple(slice(None, None, -1 if mirrored else None) for mirrored in self.mirrored)
        return array[flips].transpose(np.argsort(self.axes))


def axial_order(geometry: VolumeGeometry) -> AxialOrder:
    """The axis order and mirroring that bring a grid closest to axial; identity for a supine axial DICOM stack."""
    directions = geometry.lps_from_kji[:3, :3] / np.linalg.norm(geometry.lps_from_kji[:3, :3], axis=0)
    zyx = directions[::-1]  # rows: along z, y, x; columns: array axes
    best = max(permutations(range(3)), key=lambda axes: sum(abs(zyx[row, axis]) for row, axis in enumerate(axes)))
    return AxialOrder(
        axes=(best[0], best[1], best[2]),
        mirrored=(bool(zyx[0, best[0]] < 0), bool(zyx[1, best[1]] < 0), bool(zyx[2, best[2]] < 0)),
    )


def axial_geometry(geometry: VolumeGeometry) -> VolumeGeometry:
    """Geometry of `axial_order(geometry).to_axial(array)`: the same voxels at the same places."""
    order = axial_order(geometry)
    affine = geometry.lps_from_kji[:, [*order.axes, 3]].copy()
    shape = tuple(geometry.shape[axis] for axis in order.axes)
    for axis, mirrored in enumerate(order.mirrored):
        if mirrored:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    return VolumeGeometry(shape=(shape[0], shape[1], shape[2]), lps_from_kji=affine)
