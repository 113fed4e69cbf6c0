"""Model files: one safetensors file whose metadata says what it is, what it was trained with and on.

Nothing is unpickled, ever. A file is read once, and digest, header and weights all come from those same bytes, so that
what was recorded is what ran. Weights may be stored in half precision; they are float32 once loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from vaeseg.config import ArchitectureConfig, PreprocessingConfig, as_json, from_json
from vaeseg.errors import CheckpointError, ModelNotFoundError
from vaeseg.models.provenance import PLAIN_FIELDS, Provenance, content_digest
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.models.writing import write_model_file
from vaeseg.paths import AnyPath, any_path, matches

FORMAT_VERSION = "2"
"""Raised when an older vaeseg could misread a newer file. Files of version 1 had no digest of their content."""

FIRST_VERSION = "1"

MAX_CHECKPOINT_BYTES = 2 * 2**30
"""Larger files are refused before they are read: the largest member of the family has a tenth of this."""

SUFFIX = ".safetensors"

PICKLE_STARTS = (b"PK", b"\x80")
"""Of a zip, as torch.save writes it, and of a pickle. A safetensors header of 128 bytes begins like one too."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NETWORKS: Mapping[str, type[VariationalAutoencoder]] = {"vae": VariationalAutoencoder, "segmenter": Segmenter}
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A model file's contents, checked."""

    kind: Literal["vae", "segmenter"]
    architecture: ArchitectureConfig
    preprocessing: PreprocessingConfig
    state: dict[str, Tensor]
    """Weights by name, float32, of exactly the shapes that the architecture has."""
    metadata: Provenance
    digest: str
    """SHA-256 of the file's bytes, 64 hex digits."""
    described: Mapping[str, str]
    """All of the file's metadata as it stands there, `content_digest` among it."""
    stored_types: Mapping[str, torch.dtype]
    """Of each weight in the file, float16 for one that was stored in half precision."""

    def check_digest(self, digest: str) -> None:
        """Make sure that it is the model that was meant.

        Raises:
            CheckpointError: it is another, because its file changed or another node has another version of it.
        """
        if self.digest != digest:
            raise CheckpointError(
                f"the model here is {self.digest[:12]}, the run was submitted with {digest[:12]}: submit again, with "
                "the same vaeseg and the same model file on every node"
            )

    def network(self) -> VariationalAutoencoder:
        """The network with its weights, in evaluation mode."""
        model = _NETWORKS[self.kind](self.architecture)
        model.load_state_dict(self.state)
        return model.eval()


def save_checkpoint(
    path: AnyPath,
    model: VariationalAutoencoder,
    preprocessing: PreprocessingConfig,
    metadata: Provenance,
    half: bool = False,
) -> str:
    """Write a model file so that a crash leaves the old file or the new one, never half of one.

    Args:
        path: ends with .safetensors; its directory is made.
        model: a `Segmenter` or a `VariationalAutoencoder`, on any device.
        preprocessing: what the model was trained with; its image size must be the architecture's.
        metadata: where the weights come from.
        half: store weights of two and more dimensions in float16, which halves the file.

    Returns:
        SHA-256 of the file's bytes.

    Raises:
        ValueError: the image sizes differ.
        StoreError: the file cannot be written.
    """
    if preprocessing.image_size != model.architecture.image_size:
        raise ValueError(
            f"preprocessing has image_size {preprocessing.image_size}, the network {model.architecture.image_size}"
        )
    described = {
        "format_version": FORMAT_VERSION,
        "kind": "segmenter" if isinstance(model, Segmenter) else "vae",
        "architecture": as_json(model.architecture),
        "preprocessing": as_json(preprocessing),
        "metrics": json.dumps(dict(metadata.metrics), sort_keys=True, allow_nan=False),
        "seen_tokens": json.dumps(sorted(metadata.seen_tokens)),
        **{name: getattr(metadata, name) for name in PLAIN_FIELDS},
    }
    data = checkpoint_bytes(described, {name: stored(weight, half) for name, weight in model.state_dict().items()})
    write_model_file(path, data)
    return hashlib.sha256(data).hexdigest()


def load_checkpoint(path: AnyPath) -> Checkpoint:
    """Read and check a model file.

    Raises:
        CheckpointError: unreadable, damaged, foreign, incomplete, of a newer or older format, changed after it was
            written, or its weights do not fit its architecture.
    """
    return parse_checkpoint(path.name, read_model_file(path))


def parse_checkpoint(name: str, data: bytes) -> Checkpoint:
    """The same from a file's bytes; `name` is only for messages."""
    tensors, described = parse_safetensors(name, data)
    _check_version(name, described)
    if described.get("content_digest") != content_digest(described, tensors):
        raise CheckpointError(
            f"model {name} does not match its content digest: weights or metadata were changed after it was "
            "written; get it again from where it came"
        )
    kind = described.get("kind", "")
    if kind not in _NETWORKS:
        raise CheckpointError(f"model {name} is neither a vae nor a segmenter; train it again")
    architecture, preprocessing, metadata = _described(name, described)
    return Checkpoint(
        kind="segmenter" if kind == "segmenter" else "vae",
        architecture=architecture,
        preprocessing=preprocessing,
        state=_checked_state(name, tensors, kind, architecture),
        metadata=metadata,
        digest=hashlib.sha256(data).hexdigest(),
        described=described,
        stored_types={key: weight.dtype for key, weight in tensors.items()},
    )


def checkpoint_bytes(described: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
    """A model file with this metadata and its content digest; the same content gives the same bytes."""
    proven = {**described, "content_digest": content_digest(described, tensors)}
    return _in_fixed_order(save_tensors(dict(tensors), proven))


def stored(weight: Tensor, half: bool) -> Tensor:
    """A weight as a file holds it: float16 with `half` for two and more dimensions."""
    narrowed = weight.half() if half and weight.ndim > 1 else weight
    return narrowed.detach().cpu().contiguous()


def read_model_file(path: AnyPath) -> bytes:
    """Its bytes.

    Raises:
        CheckpointError: it cannot be read, or is larger than any model of ours.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CHECKPOINT_BYTES:
            raise CheckpointError(f"model {path.name} has {size} bytes, expected at most {MAX_CHECKPOINT_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"model {path.name} cannot be read: {error.strerror}") from error


def parse_safetensors(name: str, data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, neither checked.

    Raises:
        CheckpointError: the file is damaged, of another kind, or a pickle.
    """
    try:
        tensors = load_tensors(data)
        header_length = int.from_bytes(data[:8], "little")
        described = json.loads(data[8 : 8 + header_length]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        if data.startswith(PICKLE_STARTS):
            raise CheckpointError(
                f"model {name} is a pickle, which can run code and is never loaded; give a {SUFFIX} file"
            ) from error
        raise CheckpointError(f"model {name} is damaged or no {SUFFIX} file; copy or train it again") from error
    return tensors, described


def resolve_model(name_or_path: str, store_models_dir: AnyPath | None = None) -> AnyPath:
    """File of a model: by name in the store, by name among those shipped with vaeseg, or by path.

    Raises:
        ModelNotFoundError: none of these; the message lists the names that exist.
    """
    places = [directory for directory in (store_models_dir, shipped_models_dir()) if directory is not None]
    if _MODEL_NAME.fullmatch(name_or_path):
        for directory in places:
            candidate = directory / f"{name_or_path}{SUFFIX}"
            if candidate.is_file():
                return candidate
    if (path := any_path(name_or_path)).is_file():
        return path
    names = sorted({path.stem for directory in places for path in _model_files(directory)})
    known = f"known are {', '.join(names)}" if names else "none is known"
    raise ModelNotFoundError(f"no model {name_or_path}: {known}; a path to a {SUFFIX} file will do too")


def name_or_path(name_or_path: str, store_models_dir: AnyPath | None = None) -> str:
    """What `resolve_model` finds, so that another machine finds the same: a shipped model's name, or a whole path.

    Raises:
        ModelNotFoundError: there is none.
    """
    found = resolve_model(name_or_path, store_models_dir)
    return found.stem if found.parent == shipped_models_dir() else str(found.resolve())


def model_path(store_models_dir: Path, name: str) -> Path:
    """Where a store keeps the model of this name.

    Raises:
        ValueError: the name has characters other than letters, digits, dot, dash and underscore.
    """
    return store_models_dir / model_file_name(name)


def model_file_name(name: str) -> str:
    """Of the file in a store's `models`.

    Raises:
        ValueError: as `model_path`.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no model name: letters, digits, dot, dash and underscore only")
    return f"{name}{SUFFIX}"


def shipped_models_dir() -> Path:
    """Directory of the weights inside the installed package."""
    return Path(str(files("vaeseg.models") / "weights"))


def _in_fixed_order(data: bytes) -> bytes:
    """The same file with its metadata sorted: safetensors writes it in random order, and the digest would differ."""
    header_length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + header_length :]


def _check_version(name: str, described: Mapping[str, str]) -> None:
    found = described.get("format_version", "none")
    if found == FIRST_VERSION:
        raise CheckpointError(
            f"model {name} was written by an older vaeseg: run 'vaeseg-batch model import FILE --name NAME' to have it "
            f"checked and written in format {FORMAT_VERSION}"
        )
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"model {name} has format version {found[:20]}, expected {FORMAT_VERSION}: it was not written by vaeseg, "
            "or by a newer one"
        )


def _described(name: str, described: Mapping[str, str]) -> tuple[ArchitectureConfig, PreprocessingConfig, Provenance]:
    try:
        architecture = from_json(ArchitectureConfig, described["architecture"])
        preprocessing = from_json(PreprocessingConfig, described["preprocessing"])
        metrics = json.loads(described["metrics"])
        tokens = json.loads(described["seen_tokens"])
        plain = {field_name: described[field_name] for field_name in PLAIN_FIELDS}
    except KeyError as error:
        raise CheckpointError(f"model {name} lacks its {error.args[0]}; train it again") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"model {name} has metadata that cannot be read: {str(error)[:200]}") from error
    if not _are_figures(metrics) or not isinstance(tokens, list):
        raise CheckpointError(f"model {name} has metadata that cannot be read: metrics or seen_tokens")
    if architecture.image_size != preprocessing.image_size:
        raise CheckpointError(
            f"model {name} contradicts itself: network for {architecture.image_size} pixels, "
            f"preprocessing for {preprocessing.image_size}"
        )
    return architecture, preprocessing, Provenance(metrics=metrics, seen_tokens=tuple(map(str, tokens)), **plain)


def _are_figures(metrics: object) -> bool:
    """Whether it is an object of finite numbers and null."""
    return isinstance(metrics, dict) and all(
        value is None or (type(value) in (int, float) and math.isfinite(value)) for value in metrics.values()
    )


def _checked_state(
    name: str, tensors: Mapping[str, Tensor], kind: str, architecture: ArchitectureConfig
) -> dict[str, Tensor]:
    """Weights in float32; no memory is taken for a network that the file does not fill."""
    with torch.device("meta"):
        expected = _NETWORKS[kind](architecture).state_dict()
    strange = _first(expected.keys() ^ tensors.keys())
    if strange is not None:
        state = "lacks" if strange in expected else "has a foreign"
        raise CheckpointError(f"model {name} {state} weight {strange[:80]} for its {architecture.kind} architecture")
    for key, wanted in expected.items():
        found = tensors[key]
        precise = found.dtype in _PRECISIONS if wanted.is_floating_point() else found.dtype == wanted.dtype
        if found.shape != wanted.shape or not precise:
            raise CheckpointError(
                f"model {name} has weight {key} as {found.dtype} {tuple(found.shape)}, expected {tuple(wanted.shape)}"
            )
        if not torch.isfinite(found).all():
            raise CheckpointError(f"model {name} has weight {key} with values that are not finite; train it again")
    return {key: tensors[key].to(wanted.dtype) for key, wanted in expected.items()}


def _first(names: Iterable[str]) -> str | None:
    return min(names, default=None)


def _model_files(directory: AnyPath) -> Iterable[AnyPath]:
    return (path for path in matches(directory, f"*{SUFFIX}") if not path.name.startswith("."))
