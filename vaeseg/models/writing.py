"""Writing model files and training states so that a crash leaves the old file or the new one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vaeseg.errors import StoreError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it, flushed to disk before it takes the name.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreError(f"model {path.name} cannot be written: {error.strerror}") from error
