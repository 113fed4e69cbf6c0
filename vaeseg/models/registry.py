"""The models of a store, and those that come with vaeseg. The files are the registry: nothing else can disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from vaeseg.durable import write_file
from vaeseg.errors import CheckpointError, ModelNotFoundError, UsageError
from vaeseg.models import files
from vaeseg.models.checkpoint import (
    Checkpoint,
    checkpoint_bytes,
    load_checkpoint,
    parse_checkpoint,
    parse_safetensors,
    stored,
)
from vaeseg.models.description import FIRST_VERSION, FORMAT_VERSION, SINCE_SECOND
from vaeseg.models.files import model_file_name, read_model_file
from vaeseg.models.onnx import from_onnx
from vaeseg.models.record import Record, record_of
from vaeseg.paths import AnyPath, matches

Where = Literal["store", "shipped", "file"]


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """One model file."""

    name: str
    """What it is called on the command line."""
    where: Where
    """In the store, in the installed package, or elsewhere."""
    size_bytes: int
    written_at: str
    """When the file was last written, ISO 8601 in UTC. Not in the file: the same training gives the same bytes."""
    record: Record | None
    """None for a file that is refused."""
    problem: str | None = None
    """Why it is refused."""

    def as_json(self) -> Record:
        """Flat, for JSON; `problem` is null for a good file."""
        place = {"name": self.name, "where": self.where, "size_bytes": self.size_bytes, "written_at": self.written_at}
        return {**place, **(self.record or {}), "problem": self.problem}


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """What an import did."""

    path: AnyPath
    digest: str
    outcome: Literal["imported", "replaced", "unchanged"]


def list_models(store_models: AnyPath) -> list[ListedModel]:
    """Every model file of a store and of the package, checked; weights are not kept in memory.

    Parents are named where they are among these.
    """
    listed = [_listed(path, path.stem, where) for where, path in _places(store_models)]
    names = {model.record["digest"]: model.name for model in reversed(listed) if model.record}
    for model in listed:
        if model.record:
            model.record["parent"] = names.get(model.record["parent_digest"])
    return listed


def show_model(path: AnyPath, store_models: AnyPath) -> ListedModel:
    """One model with its ancestors, oldest last, as far as they can be found.

    Raises:
        CheckpointError: the file is refused.
    """
    where: Where = next((where for where, known in _places(store_models) if known == path), "file")
    model = _listed(path, path.name if where == "file" else path.stem, where)
    if model.record is None:
        raise CheckpointError(str(model.problem))
    model.record["ancestors"] = _ancestors(model.record["parent_digest"], store_models)
    return model


def import_model(source: AnyPath, store_models: AnyPath, name: str, force: bool = False) -> ImportedModel:
    """Check a model file or an ONNX file of ours, and put it into a store in the present format.

    Raises:
        ModelNotFoundError: no such file.
        CheckpointError: it is refused; nothing was written.
        UsageError: no name for a model, or another model has that name and `force` was not given.
        StoreError: it cannot be written.
    """
    target = _target(store_models, name)
    if not source.is_file():
        raise ModelNotFoundError(f"there is no file {source}")
    data = upgraded(source.name, read_model_file(source))
    digest = hashlib.sha256(data).hexdigest()
    holder = next((path for _, path in _places(store_models) if path.name == target.name), None)
    if holder is not None and _file_digest(holder) == digest:
        return ImportedModel(path=holder, digest=digest, outcome="unchanged")
    if holder is not None and not force:
        raise UsageError(f"another model is called {name}: choose another --name, or replace it with --force")
    write_file(target, data, f"model {target.name}")
    return ImportedModel(path=target, digest=digest, outcome="imported" if holder is None else "replaced")


def upgraded(name: str, data: bytes) -> bytes:
    """A model file of the present format out of one of any format, or of ONNX, fully checked.

    Raises:
        CheckpointError: it is refused.
    """
    if name.lower().endswith(".onnx"):
        return from_onnx(name, data)
    tensors, described = parse_safetensors(name, data)
    if described.get("format_version") == FIRST_VERSION:
        if newer := SINCE_SECOND & described.keys():
            raise CheckpointError(
                f"model {name} says format version {FIRST_VERSION} and holds {min(newer)}, which came later: it was "
                "changed after it was written; get it again from where it came"
            )
        now = {**described, "format_version": FORMAT_VERSION, "seen_tokens": "[]", "commit": ""}
        data = checkpoint_bytes(now, tensors)
    parse_checkpoint(name, data)
    return data


def halved(checkpoint: Checkpoint) -> bytes:
    """Its model file with weights of two and more dimensions in float16: another model, with another digest.

    Raises:
        CheckpointError: a weight is too large for float16.
    """
    state = {key: stored(weight, True) for key, weight in checkpoint.state.items()}
    for key, weight in state.items():
        if not weight.isfinite().all():
            raise CheckpointError(f"weight {key} does not fit into half precision: export the model without --half")
    return checkpoint_bytes(checkpoint.described, state)


def _places(store_models: AnyPath) -> Iterator[tuple[Literal["store", "shipped"], AnyPath]]:
    """Model files in the order in which names are looked up."""
    for where, directory in (("store", store_models), ("shipped", files.shipped_models_dir())):
        for path in matches(directory, f"*{files.SUFFIX}"):
            if not path.name.startswith("."):
                yield ("store" if where == "store" else "shipped", path)


def _listed(path: AnyPath, name: str, where: Where) -> ListedModel:
    record, problem = None, None
    try:
        record = record_of(load_checkpoint(path))
    except CheckpointError as error:
        problem = str(error)
    size, seconds = _status(path)
    written_at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return ListedModel(name=name, where=where, size_bytes=size, written_at=written_at, record=record, problem=problem)


def _status(path: AnyPath) -> tuple[int, float]:
    """Bytes and time of the last change; zeros for a link that leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0.0
    return status.st_size, status.st_mtime


def _ancestors(digest: str | None, store_models: AnyPath) -> list[Mapping[str, str | None]]:
    known = {_file_digest(path): (where, path) for where, path in reversed(list(_places(store_models)))}
    chain: list[Mapping[str, str | None]] = []
    while digest is not None:
        where, path = known.pop(digest, (None, None))
        chain.append({"digest": digest, "name": path.stem if path else None, "where": where})
        digest = _parent(path) if path else None
    return chain


def _parent(path: AnyPath) -> str | None:
    try:
        return load_checkpoint(path).metadata.parent_digest or None
    except CheckpointError:
        return None


def _file_digest(path: AnyPath) -> str:
    """Empty for a file that cannot be read."""
    try:
        return hashlib.sha256(read_model_file(path)).hexdigest()
    except CheckpointError:
        return ""


def _target(store_models: AnyPath, name: str) -> AnyPath:
    try:
        return store_models / model_file_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
