"""Model files: one safetensors file whose metadata says what it is, what it was trained with and on.

Nothing is unpickled, ever. A file is read once, and digest, header and weights all come from those same bytes, so that
what was recorded is what ran. Weights may be stored in half precision; they are float32 once loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from vaeseg.canonical import as_json
from vaeseg.config import ArchitectureConfig, PreprocessingConfig
from vaeseg.durable import write_file
from vaeseg.errors import CheckpointError
from vaeseg.models.description import FORMAT_VERSION, Description, content_digest, parse_description, parse_words
from vaeseg.models.files import read_model_file
from vaeseg.models.provenance import PLAIN_FIELDS, Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.paths import AnyPath

_NETWORKS: Mapping[str, type[VariationalAutoencoder]] = {"vae": VariationalAutoencoder, "segmenter": Segmenter}
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(Description):
    """A model file's contents, checked."""

    state: dict[str, Tensor]
    """Weights by name, float32, of exactly the shapes that the architecture has."""
    stored_types: Mapping[str, torch.dtype]
    """Of each weight in the file, float16 for one that was stored in half precision."""

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
        **({"workers": str(metadata.workers)} if metadata.workers else {}),
        **({"computed_in": metadata.computed_in} if metadata.computed_in else {}),
    }
    data = checkpoint_bytes(described, {name: stored(weight, half) for name, weight in model.state_dict().items()})
    write_file(path, data, f"model {path.name}")
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
    description = parse_description(name, data)
    tensors = _tensors(name, data)
    return Checkpoint(
        **{field.name: getattr(description, field.name) for field in fields(description)},
        state=_checked_state(name, tensors, description.kind, description.architecture),
        stored_types={key: weight.dtype for key, weight in tensors.items()},
    )


def parse_safetensors(name: str, data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, neither checked.

    Raises:
        CheckpointError: the file is damaged, of another kind, or a pickle.
    """
    described = parse_words(name, data)
    return _tensors(name, data), described


def checkpoint_bytes(described: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
    """A model file with this metadata and its content digest; the same content gives the same bytes."""
    proven = {**described, "content_digest": content_digest(described, save_tensors(dict(tensors)))}
    return _in_fixed_order(save_tensors(dict(tensors), proven))


def stored(weight: Tensor, half: bool) -> Tensor:
    """A weight as a file holds it: float16 with `half` for two and more dimensions."""
    narrowed = weight.half() if half and weight.ndim > 1 else weight
    return narrowed.detach().cpu().contiguous()


def _tensors(name: str, data: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError) as error:  # a type that torch has not
        raise CheckpointError(f"model {name} holds weights that cannot be read; train it again") from error


def _in_fixed_order(data: bytes) -> bytes:
    """The same file with its metadata sorted: safetensors writes it in random order, and the digest would differ."""
    header_length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + header_length :]


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
        if key.endswith("running_var") and (found < 0).any():
            raise CheckpointError(f"model {name} has weight {key} with negative values, which no variance has")
    return {key: tensors[key].to(wanted.dtype) for key, wanted in expected.items()}


def _first(names: Iterable[str]) -> str | None:
    return min(names, default=None)
