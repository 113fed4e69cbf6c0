"""An archive that is registered in a store beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from called import vaeseg
from factories import write_series


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Directory of `ward/`, an archive of one series, and of `store/`, where it is registered under that name."""
    write_series(tmp_path / "ward" / "a")
    result = vaeseg(tmp_path, "archive", "add", "ward", "--root", str(tmp_path / "ward"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "vaeseg-batch scan ward" in result.stdout
    return tmp_path
