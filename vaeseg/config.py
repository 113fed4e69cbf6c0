"""Every setting, as frozen keyword-only dataclasses checked when they are made.

Loaded once at the edge; the object is passed, not its fields. `vaeseg.canonical` makes text of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from vaeseg.canonical import ADDED_LATER

Precision = Literal["auto", "fp32", "bf16"]
"""Numbers that a network computes in: `auto` takes bfloat16 where the hardware multiplies it faster than float32."""


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Bounds on what is read, so that no file decides how much memory is used."""

    max_voxels: int = 2**29
    """Largest volume, in voxels (2048 slices of 512 x 512); a header that claims more is refused."""
    max_header_bytes: int = 64 * 2**20
    """Most bytes of a deflated data set after inflation, and of a NIfTI file beside its voxels."""
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


MAX_DIMENSION = 4096
"""Largest side, width or latent length, so that a hostile checkpoint cannot ask for absurd memory."""
MAX_LATENT_BLOCKS = 64
"""Most residual blocks at latent resolution, for the same reason."""


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
    patch_size: int = 1
    """Side of the squares of pixels folded into channels before the first convolution, and unfolded after the last, a
    power of two; 1 strides and transposes instead. Most of the work is at large sizes, which 4 does away with;
    `spatial` only."""
    decoder_latent_blocks: int = 1
    """Residual blocks of the decoder at latent resolution; `spatial` only."""

    def __post_init__(self) -> None:
        if self.image_size < 64 or self.base_width < 1 or self.latent_channels < 1:
            raise ValueError(f"no such network: {self}")
        if max(self.image_size, self.base_width, self.latent_channels, self.downsampling) > MAX_DIMENSION:
            raise ValueError(f"no dimension of a network may exceed {MAX_DIMENSION}: {self}")
        if self.kind == "paper" and self.image_size & (self.image_size - 1):
            raise ValueError(f"image_size {self.image_size} is not a power of two")
        if self.downsampling < 2 or self.downsampling & (self.downsampling - 1):
            raise ValueError(f"downsampling {self.downsampling} is not a power of two")
        if self.patch_size < 1 or self.patch_size & (self.patch_size - 1) or self.patch_size > self.downsampling:
            raise ValueError(f"patch_size {self.patch_size} is no power of two up to {self.downsampling}")
        if not 1 <= self.decoder_latent_blocks <= MAX_LATENT_BLOCKS:
            raise ValueError(f"decoder_latent_blocks {self.decoder_latent_blocks} is not in 1 to {MAX_LATENT_BLOCKS}")
        if self.kind == "spatial" and self.image_size % self.downsampling:
            raise ValueError(f"image_size {self.image_size} is not a multiple of downsampling {self.downsampling}")


MAX_WINDOW_HU = 1e6
"""Bound of an intensity window, either side: further than any voxel, and exact in float32."""


@dataclass(frozen=True, kw_only=True)
class PreprocessingConfig:
    """From a volume in HU to what the network sees; stored in the checkpoint and taken from nowhere else."""

    image_size: int = 256
    """Side of the model grid, pixels. The grid is square and covers the longer in-plane side of the volume."""
    intensity: Literal["minmax", "window", "volume", "slice"] = "window"
    """What becomes [0, 1]. `minmax`: each volume's own range (the paper's); `window`: the window below; `volume` and
    `slice`: from two standard deviations below the mean of each volume, or slice, to four above, for archives whose
    values are no HU or differ from scan to scan."""
    window_low_hu: float = -1000.0
    """Maps to 0; used by `window` only."""
    window_high_hu: float = 400.0
    """Maps to 1; used by `window` only."""
    threshold: float = 0.5
    """Probability from which a pixel is tumour."""

    def __post_init__(self) -> None:
        has_window = -MAX_WINDOW_HU <= self.window_low_hu < self.window_high_hu <= MAX_WINDOW_HU
        if self.image_size < 1 or not has_window or not 0 < self.threshold < 1:
            raise ValueError(f"impossible preprocessing: {self}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How one stage is trained; with the data it decides the weights. `training_preset` gives two starting points."""

    epochs: int = 50
    """Passes over the training slices, or over `slices_per_epoch` draws."""
    batch_size: int = 32
    """Slices in one step of one worker; two workers take twice as many a step."""
    learning_rate: float = 5e-3
    """AdamW's peak learning rate."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    schedule: Literal["step", "cosine"] = "step"
    """`step`: times `step_factor` every `step_epochs`; `cosine`: linear warm-up, then a cosine to zero."""
    step_epochs: int = 10
    """`step` only."""
    step_factor: float = 0.6
    """`step` only."""
    warmup_share: float = 0.05
    """Share of all steps spent on warm-up; `cosine` only."""
    slices_per_epoch: int = 0
    """Slices drawn an epoch, with replacement; 0 takes each training slice once."""
    shuffle_window: int = 8192
    """Slices that are shuffled among each other, and that a streamed training holds in memory; a set with fewer is
    shuffled as a whole."""
    crop_size: int = 0
    """Side of the random crop trained on, pixels, for convolutional latents; 0 trains on whole slices."""
    tumour_share: float = 0.0
    """Share of drawn slices that must hold a label; needs `slices_per_epoch`. 0 draws as the data has them."""
    augmentation: Literal["none", "flip", "dihedral"] = "none"
    """`flip`: left and right; `dihedral`: all eight flips and quarter turns, for crops without a direction."""
    intensity_jitter: float = 0.0
    """Random gain and offset of the normalised intensity, up to this."""
    gamma_jitter: float = 0.0
    """Random power of the normalised intensity, from exp(-this) to exp(this)."""
    noise: float = 0.0
    """Greatest standard deviation of white noise added to the normalised intensity."""
    warp_share: float = 0.0
    """Share of slices turned by any angle, scaled and shifted at random, on top of `augmentation`."""
    warp_scale: float = 1.25
    """Warped slices are scaled by 1 / this to this."""
    warp_shift: float = 0.0625
    """Warped slices are shifted by up to this share of the side."""
    freeze_encoder: bool = True
    """Stage two trains the decoder alone (the paper), or everything."""
    latent: Literal["sample", "mean"] = "sample"
    """What the decoder is trained on: a sample of the posterior, or its mean."""
    reconstruction_loss: Literal["bce", "mse"] = "bce"
    """Of stage one: binary cross-entropy, or squared error of the sigmoid."""
    bce_reduction: Literal["sum", "mean"] = "mean"
    """Over all pixels of a step."""
    dice_weight: float = 0.0
    """Weight of the soft Dice loss; stage two only."""
    kl_weight: float = 0.0
    """Weight of the KL divergence, mean over batch and latent."""
    ema_decay: float = 0.0
    """Decay a step of the running mean of the weights, which is then what is measured and kept; 0 keeps the weights."""
    keep: Literal["last", "best_loss", "best_iou"] = "last"
    """Weights of the last epoch, or of the epoch with the best dev figure; `best_iou` for stage two only."""
    patience: int = 0
    """Epochs without a better dev figure (the loss with `last`) after which training stops; 0 never stops early."""
    split: Literal["subject", "slice"] = "subject"
    """Unit of the split; `slice` leaks neighbours and exists to reproduce the paper's table."""
    fold: int = 0
    """Which of the data set's splits of that kind."""
    precision: Precision = "auto"
    """`bf16` autocasts to bfloat16."""
    deterministic: bool = False
    """Refuse kernels whose result may differ from run to run; slower on a GPU, without effect on a CPU."""
    seed: int = 0
    """Decides first weights, order, crops and noise; the split is the data set's."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.step_epochs, self.shuffle_window) < 1 or self.learning_rate <= 0:
            raise ValueError("epochs, batch_size, step_epochs, shuffle_window and learning_rate must be positive")
        if min(self.slices_per_epoch, self.crop_size, self.seed, self.fold, self.patience) < 0:
            raise ValueError(f"impossible training: {self}")
        if not 0 <= self.tumour_share <= 1 or not 0 <= self.ema_decay < 1 or not 0 <= self.warmup_share <= 1:
            raise ValueError("tumour_share and warmup_share must lie in [0, 1], ema_decay in [0, 1)")
        if not 0 <= self.warp_share <= 1 or self.warp_scale < 1 or min(self.noise, self.gamma_jitter) < 0:
            raise ValueError(
                "warp_share must lie in [0, 1], warp_scale be at least 1, noise and gamma_jitter at least 0"
            )
        if self.tumour_share and not self.slices_per_epoch:
            raise ValueError("tumour_share needs slices_per_epoch, the number of slices drawn an epoch")


def training_preset(stage: Literal["vae", "decoder"], preset: Literal["paper", "improved"]) -> TrainingConfig:
    """The paper's training to the letter, or what works on tumours split by subject."""
    match stage, preset:
        case "vae", "paper":
            return TrainingConfig(epochs=70, learning_rate=4e-3, step_epochs=5, step_factor=0.8, kl_weight=0.1)
        case "decoder", "paper":
            return TrainingConfig(epochs=50, learning_rate=5e-3, bce_reduction="sum")
        case "vae", "improved":
            return replace(_IMPROVED, epochs=20, kl_weight=0.01, keep="best_loss")
    return replace(_IMPROVED, freeze_encoder=False, dice_weight=1.0, kl_weight=0.01, keep="best_iou")


_IMPROVED = TrainingConfig(
    epochs=60,
    batch_size=16,
    learning_rate=4e-3,
    weight_decay=0.05,
    schedule="cosine",
    augmentation="dihedral",
    intensity_jitter=0.12,
    gamma_jitter=0.3,
    noise=0.03,
    warp_share=0.6,
)


def model_preset(preset: Literal["paper", "improved"]) -> ArchitectureConfig:
    """The network that belongs to a training preset, for slices of 256 x 256."""
    if preset == "paper":
        return ArchitectureConfig()
    return ArchitectureConfig(kind="spatial", latent_channels=32, patch_size=4)


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """What one run does to each series; its digest is part of the work key, so it holds only what changes results."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    output_types: tuple[str, ...] = ("nifti",)
    """Mask file kinds: `nifti`, `png`."""
    with_labels: bool = False
    """Whether IoU and Dice are measured against labels."""
    organ: int | None = field(default=None, metadata=ADDED_LATER)
    """Label value that counts; None for every value above 0, of labels that have no more than one."""


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """A synthetic archive; the same values give the same files."""

    n_patients: int = 4
    """How many patients, each with one series."""
    seed: int = 0
    """Of every random draw."""
    image_size: int = 512
    """Side of the square slices, pixels; the patient in mm is the same at any size."""
    z_extent_mm: float | None = None
    """Length of the scan along z, about a tumour where there is one; None for the whole chest (230-320 mm)."""
    slice_spacing_mm: float | None = None
    """Distance between slices; None to draw it for each patient from 0.7 to 5 mm."""
    tumour_free_share: float = 0.17
    """Share of patients without any tumour."""
    max_tumours: int = 4
    """Most tumours of one patient, 0 to 4."""
    transfer_syntax: Literal["explicit", "jpegls", "j2k", "rle"] = "explicit"
    """How DICOM pixels are written: explicit little endian, or a lossless compression."""

    def __post_init__(self) -> None:
        if self.n_patients < 1 or self.seed < 0 or self.image_size < 16:
            raise ValueError(f"impossible phantom: {self.n_patients} patients, seed {self.seed}, {self.image_size} px")
        lengths_mm = [length for length in (self.z_extent_mm, self.slice_spacing_mm) if length is not None]
        if any(length <= 0 for length in lengths_mm):
            raise ValueError("a phantom's extent and slice spacing must be positive")
        if not 0 <= self.tumour_free_share <= 1 or not 0 <= self.max_tumours <= 4:
            raise ValueError("tumour_free_share must lie in [0, 1] and max_tumours in 0 to 4")


FEWEST_AT_ONCE, MOST_AT_ONCE = 500, 2000
"""Series of a run in one pipeline: each loads models anew, and holds its manifests in memory."""
SERIES_A_CORE = 100
"""In one pipeline, for each core of the cluster: they take it longer than models take to load."""
HERE_SECONDS = 5.0
"""For so long the driver reads headers before it starts a Ray of this machine, unless it sees before that twice as much
would be left, and reads on until that is up: starting one takes as long, and by then it has read more than ten thousand
from a local disk."""


def series_at_once(n_cores: int) -> int:
    """Series of a run in one pipeline, on so many cores."""
    return max(FEWEST_AT_ONCE, min(SERIES_A_CORE * n_cores, MOST_AT_ONCE))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run needs besides its archive and its model; kept with the run, so that a job can execute it."""

    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    """The part that belongs to the work key."""
    model_path: str
    """The checkpoint file, or the name of a model that comes with vaeseg; its digest is the run's."""
    label_dir: str | None = None
    """Directory of label volumes."""
    rules: dict[str, Any] | None = None
    """Which readable series are segmented, as the file of `--select` says it (`vaeseg.rules`). No part of the work key:
    other rules do not undo what is done."""
    limit: int | None = None
    """At most this many series in this run."""
    retry: bool = False
    """Do again what failed or crashed before."""
    retry_of: str | None = None
    """Run id; only series that this run ended with one of `retry_outcomes` are done again."""
    retry_outcomes: tuple[str, ...] = ("failed", "crashed")
    """Outcomes."""
    stable_seconds: float = 0.0
    """Files that changed within this time may still be arriving, and wait with their studies."""
    plan_until: str | None = None
    """Moment in ISO 8601 with an offset; from then on no series is begun, and those that are left stay pending."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""
    batch_size: int = 32
    """Slices in one pass."""
    precision: Precision = "auto"
    """What the model computes in. Like `device` no part of the work key; `fp32` gives the same masks on all kinds
    of nodes, up to rounding."""
    actors: tuple[int, int] | None = None
    """Fewest and most processes that hold the model, one GPU each where there are GPUs; None: up to one for each GPU,
    or for each node where there are none."""
    jobs_address: str | None = None
    """Of the Ray cluster's Jobs API, where the run was submitted to one."""
    commit_every: int = 20
    """Series in one Parquet part and one transaction, at most."""
    commit_seconds: float = 10.0
    """A finished series waits no longer than about this for its commit."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.commit_every < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("batch_size, commit_every and limit must be at least 1")
        if self.actors is not None and not 1 <= self.actors[0] <= self.actors[1]:
            raise ValueError(f"actors {self.actors[0]}:{self.actors[1]}: give N, or MIN:MAX with 1 <= MIN <= MAX")
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise ValueError(f"plan_until {self.plan_until} has no offset from UTC")

    @property
    def deadline(self) -> datetime | None:
        """`plan_until` as an aware moment."""
        return None if self.plan_until is None else datetime.fromisoformat(self.plan_until)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunConfig:
        """Rebuild from the JSON object that `as_json` wrote."""
        segmentation = dict(values["segmentation"])
        segmentation["selection"] = SelectionConfig(**segmentation["selection"])
        segmentation["reading"] = ReadingConfig(**segmentation["reading"])
        segmentation["output_types"] = tuple(segmentation["output_types"])
        changed: dict[str, Any] = {"segmentation": SegmentationConfig(**segmentation)}
        for name in ("retry_outcomes", "actors"):
            if values.get(name) is not None:
                changed[name] = tuple(values[name])
        return cls(**{**values, **changed})
