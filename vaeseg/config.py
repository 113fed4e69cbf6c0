"""Every setting, as frozen keyword-only dataclasses checked when they are made.

Loaded once at the edge; the object is passed, not its fields. `as_json` and `digest` give the one canonical form that
the ledger compares.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


def as_json(config: Any) -> str:
    """Canonical JSON of a config dataclass: keys sorted, no spaces."""
    return json.dumps(asdict(config), sort_keys=True, separators=(",", ":"))


def digest(config: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON."""
    return hashlib.sha256(as_json(config).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Bounds on what is read, so that no file decides how much memory is used."""

    max_voxels: int = 2**29
    """Largest volume, in voxels (2048 slices of 512 x 512); a header that claims more is refused."""
    max_header_bytes: int = 64 * 2**20
    """Most bytes of a DICOM header, or of a deflated data set after inflation, beside its pixels."""
    decode_timeout_seconds: float = 900.0
    """A series whose decoding takes longer is recorded as `decoder_timeout`."""

    def __post_init__(self) -> None:
        if self.max_voxels < 1 or self.max_header_bytes < 1 or self.decode_timeout_seconds <= 0:
            raise ValueError("reading bounds must be positive")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which readable series are worth segmenting; a series left out is `skipped` with the rule's name."""

    min_slices: int = 8
    """Fewer slices than this are a preview or a fragment."""
    max_slice_spacing_mm: float = 10.0
    """Further apart, and a tumour can lie between two slices."""
    min_extent_mm: float = 20.0
    """Shortest stack along the slice axis."""
    min_field_of_view_mm: float = 50.0
    """Smallest in-plane side: less is a phantom insert or a targeted reconstruction."""
    require_hounsfield: bool = True
    """Skip series whose rescale is missing or is said not to give HU."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """One member of the family of networks; no skip connections in any."""

    kind: Literal["paper", "spatial"] = "paper"
    """`paper`: strided Conv-BN-LeakyReLU and a vector latent; `spatial`: residual blocks and a latent map."""
    image_size: int = 256
    """Side of the square input, pixels: `paper`, a power of two from 64; `spatial`, a multiple of `downsampling`."""
    base_width: int = 16
    """Channels of the first stage."""
    latent_channels: int = 512
    """Length of the latent vector (`paper`) or channels of the latent map (`spatial`)."""
    downsampling: int = 8
    """Input side over latent side, a power of two; `spatial` only."""

    def __post_init__(self) -> None:
        if self.image_size < 64 or self.base_width < 1 or self.latent_channels < 1:
            raise ValueError(f"no such network: {self}")
        if self.kind == "paper" and self.image_size & (self.image_size - 1):
            raise ValueError(f"image_size {self.image_size} is not a power of two")
        if self.downsampling < 2 or self.downsampling & (self.downsampling - 1):
            raise ValueError(f"downsampling {self.downsampling} is not a power of two")
        if self.kind == "spatial" and self.image_size % self.downsampling:
            raise ValueError(f"image_size {self.image_size} is not a multiple of downsampling {self.downsampling}")


@dataclass(frozen=True, kw_only=True)
class PreprocessingConfig:
    """From a volume in HU to what the network sees; stored in the checkpoint and taken from nowhere else."""

    image_size: int = 256
    """Side of the model grid, pixels. The grid is square and covers the longer in-plane side of the volume."""
    intensity: Literal["minmax", "window"] = "window"
    """`minmax`: each volume's own range to [0, 1] (the paper's); `window`: the window below to [0, 1]."""
    window_low_hu: float = -1000.0
    """Maps to 0; used by `window` only."""
    window_high_hu: float = 400.0
    """Maps to 1; used by `window` only."""
    threshold: float = 0.5
    """Probability from which a pixel is tumour."""

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.window_low_hu >= self.window_high_hu or not 0 < self.threshold < 1:
            raise ValueError(f"impossible preprocessing: {self}")


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """What one run does to each series; its digest is part of the work key, so it holds only what changes results."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    output_types: tuple[str, ...] = ("nifti",)
    """Mask file kinds: `nifti`, `png`."""
    with_labels: bool = False
    """Whether IoU and Dice are measured against labels."""
