"""Where model files lie and what they are called. No torch in here.

A model is given by its name in a store, by its name among those that come with vaeseg, or by its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from vaeseg.errors import CheckpointError, ModelNotFoundError
from vaeseg.paths import AnyPath, any_path, matches

MAX_CHECKPOINT_BYTES = 2 * 2**30
"""Larger files are refused before they are read: the largest member of the family has a tenth of this."""
SUFFIX = ".safetensors"
MAX_NAME_LENGTH = 255 - len(SUFFIX)
"""A file name has at most 255 bytes."""
_MODEL_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")


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
    try:
        if (path := any_path(name_or_path)).is_file():
            return path
    except OSError as error:  # too long for a path, or not allowed
        raise ModelNotFoundError(f"no model {name_or_path}: {error.strerror}") from error
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
        ValueError: the name has characters other than letters, digits, dot, dash and underscore, or too many.
    """
    return store_models_dir / model_file_name(name)


def model_file_name(name: str) -> str:
    """Of the file in a store's `models`.

    Raises:
        ValueError: as `model_path`.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no model name: letters, digits, dot, dash and underscore only, at most {MAX_NAME_LENGTH}"
        )
    return f"{name}{SUFFIX}"


def shipped_models_dir() -> Path:
    """Directory of the weights inside the installed package."""
    return Path(str(files("vaeseg.models") / "weights"))


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


def _model_files(directory: AnyPath) -> Iterable[AnyPath]:
    return (path for path in matches(directory, f"*{SUFFIX}") if not path.name.startswith("."))
