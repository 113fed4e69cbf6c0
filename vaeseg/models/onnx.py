"""ONNX out of a model file, and a model file out of our own ONNX again.

The graph is for other people's software. The weights in it keep their names, and the metadata goes along, so that the
model file comes back byte for byte; a changed weight or word is refused as in a model file. What the graph computes is
compared with torch before it is given away. A graph is never run on import: its weights are taken, nothing else.

B batch, J I space, Z latent.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaeseg.errors import CheckpointError, UsageError
from vaeseg.models.checkpoint import Checkpoint, checkpoint_bytes, parse_checkpoint
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder

MAX_DIFFERENCE = 1e-4
"""Between torch and ONNX Runtime: of probabilities as they are, of mean and logvar over the largest of them."""

CHECKED_BATCHES = (1, 3)
"""Batch sizes that both run, neither of them the one that the graph was traced with."""

PREFIX = "vaeseg."
"""Before each key of a model file's metadata."""

NOTICE = "research software: not a medical device, not for clinical use"

_STORED_TYPES = f"{PREFIX}stored_types"
_TYPES = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float16, torch.bfloat16, torch.float32, torch.int64)
}


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A graph that was compared with torch."""

    data: bytes
    """The ONNX file."""
    max_difference: float
    """Largest absolute difference of a probability between torch and ONNX Runtime, on random input."""


class _Probability(nn.Module):
    """Of tumour, (B, 1, S, S), from the posterior mean of (B, 1, S, S) intensity in [0, 1]."""

    outputs: tuple[str, ...] = ("probability",)

    def __init__(self, network: VariationalAutoencoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, intensity: Tensor) -> Tensor:
        logits, _ = self.network(intensity)
        return torch.sigmoid(logits)


class _Reconstruction(_Probability):
    """Intensity again, and the posterior that it came from, both (B, Z, J', I')."""

    outputs = ("reconstruction", "mean", "logvar")

    def forward(self, intensity: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        logits, posterior = self.network(intensity)
        return torch.sigmoid(logits), posterior.mean, posterior.logvar


def to_onnx(name: str, checkpoint: Checkpoint) -> OnnxModel:
    """The model as an ONNX graph with a free batch size, equal to torch on seeded random input.

    Raises:
        UsageError: the extra `onnx` is not installed.
        CheckpointError: ONNX Runtime computes something else.
    """
    onnx, runtime = _extra("onnx"), _extra("onnxruntime")
    _extra("onnxscript")
    network = checkpoint.network()
    graph = (_Probability if isinstance(network, Segmenter) else _Reconstruction)(network).eval()
    model = _exported(graph, network.architecture.image_size)
    _strip(model)
    _complete(onnx, model, checkpoint)
    data: bytes = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data)
    return OnnxModel(data=data, max_difference=_compared(name, runtime, data, graph, network.architecture.image_size))


def from_onnx(name: str, data: bytes) -> bytes:
    """The model file that an ONNX file of ours was made from, byte for byte and checked.

    Raises:
        UsageError: the extra `onnx` is not installed.
        CheckpointError: damaged, not from vaeseg, incomplete, changed, or with data in other files.
    """
    model = _parsed(name, data)
    described = {prop.key: prop.value for prop in model.metadata_props if prop.key.startswith(PREFIX)}
    types = _stored_types(name, described.pop(_STORED_TYPES, ""))
    described = {key.removeprefix(PREFIX): text for key, text in described.items()}
    file = checkpoint_bytes(described, _weights(name, model.graph, types))
    if parse_checkpoint(name, file).described["content_digest"] != described.get("content_digest"):
        raise CheckpointError(
            f"model {name} does not match its content digest: weights or metadata were changed after it was exported; "
            "export it again"
        )
    return file


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"ONNX needs {module}: pip install 'vaeseg[onnx]'") from error


def _exported(graph: _Probability, size: int) -> Any:
    """ModelProto; weights are named as in the state dict, and batch norm is not folded into them."""
    with _quiet():
        program = torch.onnx.export(
            graph,
            (torch.zeros(2, 1, size, size),),
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=["intensity"],
            output_names=list(graph.outputs),
            dynamic_shapes={"intensity": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own future, and of libraries that it does not need here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model: Any) -> None:
    """Take out traces of the exporting machine: each node holds the paths of the source that it came from."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    for initializer in graph.initializer:
        initializer.name = initializer.name.removeprefix("network.")
    for node in graph.node:
        for index, source in enumerate(node.input):
            node.input[index] = source.removeprefix("network.")
    for value in graph.value_info:
        value.name = value.name.removeprefix("network.")


def _complete(onnx: Any, model: Any, checkpoint: Checkpoint) -> None:
    """Add our metadata, and the weights that this graph does not use, so that the model file can come back."""
    present = {initializer.name for initializer in model.graph.initializer}
    for name, weight in checkpoint.state.items():
        if name not in present:
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), name))
    types = {name: str(kind).removeprefix("torch.") for name, kind in checkpoint.stored_types.items()}
    described = {f"{PREFIX}{key}": text for key, text in checkpoint.described.items()}
    onnx.helper.set_model_props(model, {**described, _STORED_TYPES: json.dumps(types), "notice": NOTICE})
    model.producer_name, model.doc_string = "vaeseg", NOTICE


def _compared(name: str, runtime: Any, data: bytes, graph: _Probability, size: int) -> float:
    """Largest difference of a probability, none of any output being too large."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # it warns of the weights that the graph does not use
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in CHECKED_BATCHES:
        images = torch.rand(batch, 1, size, size, generator=random)
        differences = _differences(graph, images, session.run(list(graph.outputs), {"intensity": images.numpy()}))
        if not max(differences) <= MAX_DIFFERENCE:
            raise CheckpointError(
                f"model {name} gives other values in ONNX Runtime than in torch: difference {max(differences):.2g}, "
                f"expected at most {MAX_DIFFERENCE:g}; nothing was written"
            )
        largest = max(largest, differences[0])
    return largest


def _differences(graph: _Probability, images: Tensor, found: list[Any]) -> list[float]:
    with torch.inference_mode():
        wanted = graph(images)
    pairs = zip((wanted,) if isinstance(wanted, Tensor) else wanted, found, strict=True)
    return [
        float((torch.from_numpy(there) - here).abs().max()) / max(1.0, float(here.abs().max())) for here, there in pairs
    ]


def _parsed(name: str, data: bytes) -> Any:
    """ModelProto of these bytes alone: data in other files is not looked for."""
    onnx = _extra("onnx")
    decode_error = _extra("google.protobuf.message").DecodeError
    try:
        return onnx.ModelProto.FromString(data)
    except decode_error as error:
        raise CheckpointError(f"model {name} is damaged or no ONNX file; export it again") from error


def _stored_types(name: str, text: str) -> Mapping[str, torch.dtype]:
    if not text:
        raise CheckpointError(f"model {name} is an ONNX file that vaeseg did not write; only its own can be imported")
    try:
        return {weight: _TYPES[kind] for weight, kind in json.loads(text).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"model {name} has metadata that cannot be read: stored_types") from error


def _weights(name: str, graph: Any, types: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Initializers, each in the type that its model file had it in."""
    weights: dict[str, Tensor] = {}
    for initializer in graph.initializer:
        key = initializer.name
        if key in weights or key not in types or key == "__metadata__":
            raise CheckpointError(f"model {name} has a foreign weight {key[:80]}")
        given = _tensor(name, initializer)
        weights[key] = given.to(types[key])
        if not torch.equal(weights[key].to(given.dtype), given):
            raise CheckpointError(f"model {name} has weight {key[:80]} changed after it was exported; export it again")
    return weights


def _tensor(name: str, initializer: Any) -> Tensor:
    """Its own bytes; a reference to another file, or a shape that they do not fill, is refused."""
    key = initializer.name[:80]
    if initializer.data_location or initializer.external_data:
        raise CheckpointError(f"model {name} keeps weight {key} in another file, which is not read; export it again")
    proto = importlib.import_module("onnx").TensorProto
    kind = {proto.FLOAT: torch.float32, proto.INT64: torch.int64}.get(initializer.data_type)
    shape, raw = tuple(initializer.dims), bytearray(initializer.raw_data)
    if kind is None or min(shape, default=1) < 1 or math.prod(shape) * kind.itemsize != len(raw):
        raise CheckpointError(f"model {name} has weight {key} with {len(raw)} bytes, which its shape or type denies")
    return torch.frombuffer(raw, dtype=kind).reshape(shape)
