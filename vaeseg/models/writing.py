"""Writing model files and training states; what goes wrong names the model."""

from __future__ import annotations

from vaeseg.durable import write_atomically
from vaeseg.errors import StoreError
from vaeseg.paths import AnyPath


def write_model_file(path: AnyPath, data: bytes) -> None:
    """Write a file whole, making its directory where it is missing.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise StoreError(f"model {path.name} cannot be written: {error.strerror}") from error
