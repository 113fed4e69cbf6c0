"""Every transfer syntax that is read has a sample that its decoder is tried with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vaeseg.io.codec_health as health
from vaeseg.io.codec_health import codec_checks
from vaeseg.io.codec_samples import FRAMES
from vaeseg.io.headers import PINNED_PLUGINS, UNCOMPRESSED_SYNTAXES

DECODED = health.decoded


def test_every_syntax_is_decoded_here() -> None:
    """One check says so."""
    (check,) = codec_checks()
    assert (check.status, check.found) == ("ok", f"{len(PINNED_PLUGINS)} transfer syntaxes are decoded")


def test_every_compressed_syntax_has_a_sample() -> None:
    """A syntax that is added without one is noticed."""
    assert set(FRAMES) == set(PINNED_PLUGINS) - UNCOMPRESSED_SYNTAXES


def test_a_plugin_that_raises_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the syntaxes that are lost; the others stay well."""

    def decode(dataset: Any, syntax: str, shape: tuple[int, int]) -> Any:
        if PINNED_PLUGINS[syntax] == "pyjpegls":
            raise ImportError("no such plug-in")
        return DECODED(dataset, syntax, shape)

    monkeypatch.setattr(health, "decoded", decode)
    (check,) = codec_checks()
    assert check.status == "failed"
    assert check.found == "pyjpegls does not decode 1.2.840.10008.1.2.4.80, 1.2.840.10008.1.2.4.81: ImportError"
    assert check.advice.endswith("constraints.txt pyjpegls")


@pytest.mark.parametrize(("off_by", "status"), [(0, "ok"), (1, "failed")])
def test_pixels_of_a_lossless_syntax_must_be_exact(off_by: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One grey value is enough."""

    def decode(dataset: Any, syntax: str, shape: tuple[int, int]) -> Any:
        found = np.array(DECODED(dataset, syntax, shape))
        found[3, 5] += off_by if PINNED_PLUGINS[syntax] == "gdcm" else 0
        return found

    monkeypatch.setattr(health, "decoded", decode)
    (check,) = codec_checks()
    assert check.status == status


def test_another_picture_is_no_loss_of_a_lossy_syntax(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that turns the picture round is found out."""
    monkeypatch.setattr(health, "decoded", lambda *given: DECODED(*given).T)
    assert {check.status for check in codec_checks()} == {"failed"}
    assert sum(check.found.count("1.2.840") for check in codec_checks()) == len(PINNED_PLUGINS)
