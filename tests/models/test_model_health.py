"""A model that cannot segment is found before a night."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.models.health import model_check


def test_the_model_that_comes_along_is_well(tmp_path: Path) -> None:
    """Its digest is the file's."""
    check, digest = model_check("phantom-v1", tmp_path)
    assert digest == load_checkpoint(resolve_model("phantom-v1")).digest
    assert check.status == "ok"
    assert check.found.startswith(f"phantom-v1, {digest[:12]}, in ")


def test_a_name_that_nobody_has_is_failed(tmp_path: Path) -> None:
    """The names there are go with it."""
    check, digest = model_check("phantom-v7", tmp_path)
    assert (check.status, digest, "phantom-v1" in check.found) == ("failed", None, True)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_model_is_failed(tmp_path: Path, damage: str) -> None:
    """Cut short, or with one byte changed in its weights; the store's own comes before the one with vaeseg."""
    data = bytearray(resolve_model("phantom-v1").read_bytes())
    if damage == "cut":
        del data[-100:]
    else:
        data[-1000] ^= 1
    (tmp_path / "phantom-v1.safetensors").write_bytes(data)
    check, digest = model_check("phantom-v1", tmp_path)
    assert (check.status, digest) == ("failed", None)
    assert "damaged" in check.found or "content digest" in check.found
