"""What a model file says of its model, and whether file and words belong together. No torch in here.

A file is safetensors: nothing is unpickled, ever. It is read once, and digest, words and weights all come from those
same bytes, so that what was recorded is what ran.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import safetensors
from safetensors import SafetensorError

from vaeseg.canonical import from_json, is_finite_number
from vaeseg.config import ArchitectureConfig, PreprocessingConfig
from vaeseg.errors import CheckpointError
from vaeseg.models.files import SUFFIX, read_model_file
from vaeseg.models.provenance import PLAIN_FIELDS, Provenance
from vaeseg.paths import AnyPath

FORMAT_VERSION = "2"
"""Raised when an older vaeseg could misread a newer file. Files of version 1 had no digest of their content."""
FIRST_VERSION = "1"
SINCE_SECOND = frozenset({"content_digest", "seen_tokens", "commit", "workers", "computed_in"})
"""Words that no file of version 1 has."""
PICKLE_STARTS = (b"PK", b"\x80")
"""Of a zip, as torch.save writes it, and of a pickle. A safetensors header of 128 bytes begins like one too."""
_TORCH_TYPES = {"F16": "torch.float16", "BF16": "torch.bfloat16", "F32": "torch.float32", "I64": "torch.int64"}
"""As content digests name them; others by what the file calls them."""

Kind = Literal["vae", "segmenter"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """A model file's words, checked against its content."""

    kind: Kind
    architecture: ArchitectureConfig
    preprocessing: PreprocessingConfig
    metadata: Provenance
    digest: str
    """SHA-256 of the file's bytes, 64 hex digits."""
    described: Mapping[str, str]
    """All of the file's metadata as it stands there, `content_digest` among it."""

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


def describe(path: AnyPath) -> Description:
    """Read a model file and check all but its weights, which `checkpoint.load_checkpoint` does.

    Raises:
        CheckpointError: unreadable, damaged, foreign, of a newer or older format, or changed after it was written.
    """
    return parse_description(path.name, read_model_file(path))


def parse_description(name: str, data: bytes) -> Description:
    """The same from a file's bytes; `name` is only for messages."""
    described = parse_words(name, data)
    _check_version(name, described)
    if described.get("content_digest") != content_digest(described, data):
        raise CheckpointError(
            f"model {name} does not match its content digest: weights or metadata were changed after it was "
            "written; get it again from where it came"
        )
    kind = described.get("kind", "")
    if kind not in get_args(Kind):
        raise CheckpointError(f"model {name} is neither a vae nor a segmenter; train it again")
    architecture, preprocessing, metadata = _described(name, described)
    return Description(
        kind=cast(Kind, kind),
        architecture=architecture,
        preprocessing=preprocessing,
        metadata=metadata,
        digest=hashlib.sha256(data).hexdigest(),
        described=described,
    )


def parse_words(name: str, data: bytes) -> dict[str, str]:
    """Metadata of a file whose tensors are whole; unchecked.

    Raises:
        CheckpointError: the file is damaged, of another kind, or a pickle.
    """
    try:
        _tensors(data)
        header_length = int.from_bytes(data[:8], "little")
        return dict(json.loads(data[8 : 8 + header_length]).get("__metadata__", {}))
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if data.startswith(PICKLE_STARTS):
            raise CheckpointError(
                f"model {name} is a pickle, which can run code and is never loaded; give a {SUFFIX} file"
            ) from error
        raise CheckpointError(f"model {name} is damaged or no {SUFFIX} file; copy or train it again") from error


def content_digest(described: Mapping[str, str], data: bytes) -> str:
    """SHA-256 over metadata (but for the digest itself) and over name, type, shape and bytes of a file's tensors.

    The order of either does not matter. It shows changes, by accident or by hand; it is no signature.
    """
    digest = hashlib.sha256()
    known = {key: text for key, text in described.items() if key != "content_digest"}
    digest.update(json.dumps(known, sort_keys=True).encode())
    for name, tensor in sorted(_tensors(data)):
        kind = _TORCH_TYPES.get(tensor["dtype"], tensor["dtype"])
        digest.update(json.dumps([name, kind, tensor["shape"]]).encode())
        digest.update(tensor["data"])
    return digest.hexdigest()


def _tensors(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name, and dtype, shape and data, of each."""
    found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return found


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
        workers = _number(described["workers"]) if "workers" in described else None
        computed_in = _number_types(described["computed_in"]) if "computed_in" in described else None
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
    provenance = Provenance(
        metrics=metrics,
        seen_tokens=tuple(map(str, tokens)),
        workers=workers,
        computed_in=computed_in,
        **plain,
    )
    return architecture, preprocessing, provenance


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise ValueError(f"{text[:20]} is no number of workers")
    return int(text)


def _number_types(text: str) -> str:
    if not {*text.split(", ")} <= {"float32", "bfloat16"}:
        raise ValueError(f"{text[:20]} is no number type")
    return text


def _are_figures(metrics: object) -> bool:
    """Whether it is an object of finite numbers and null."""
    return isinstance(metrics, dict) and all(value is None or is_finite_number(value) for value in metrics.values())
