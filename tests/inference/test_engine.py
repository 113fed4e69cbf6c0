"""The fast forms of a network give what its plain form gives, or are not used."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from networks import FAMILY, with_statistics

from vaeseg.config import Precision
from vaeseg.inference import engine
from vaeseg.inference.engine import Engine, engine_for
from vaeseg.inference.mask_bits import from_bits, to_bits
from vaeseg.models.fusing import Shapes, fused
from vaeseg.models.segmenter import Segmenter

CPU = torch.device("cpu")


class Shifted(torch.nn.Module):
    """Logits that are all too high by one standard deviation."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + logits.std()


FLAWED = {
    "shifted": Shifted(),
    "wrong": torch.nn.Threshold(0.0, 1.0),
    "constant": torch.nn.Threshold(1e9, -2.0),
    "nan": torch.nn.Threshold(0.0, float("nan")),
    "fails": torch.nn.Unflatten(1, (7, 7)),
}
"""What a flawed form does to its logits."""
INTENSITY = torch.rand((4, 64, 64), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=FAMILY, ids=["paper", "spatial", "patches"])
def network(request: pytest.FixtureRequest) -> Segmenter:
    """Its probabilities are spread over (0, 1)."""
    torch.manual_seed(0)
    made = with_statistics(Segmenter(request.param).eval())
    with torch.no_grad():
        logits = made.logits(INTENSITY[:, None])
        last, bias = last_convolution(made)
        last.weight /= logits.std()
        bias.copy_((bias - logits.mean()) / logits.std())
    return made


def last_convolution(network: Segmenter) -> tuple[torch.nn.Conv2d, torch.Tensor]:
    """Of the decoder, and its bias."""
    last = next(module for module in reversed(list(network.decoder.modules())) if isinstance(module, torch.nn.Conv2d))
    assert last.bias is not None
    return last, last.bias


def expected(network: Segmenter) -> torch.Tensor:
    with torch.no_grad():
        return network.probability(INTENSITY[:, None])[:, 0]


def made(network: Segmenter, precision: Precision) -> tuple[Engine, torch.Tensor]:
    built = engine_for(network, CPU, precision, batch=4)
    with torch.inference_mode():
        return built, torch.sigmoid(built.logits(INTENSITY))


def test_float32_is_fused_and_exact(network: Segmenter) -> None:
    """Within rounding, on a processor that has the kernels."""
    built, found = made(network, "fp32")
    assert (built.form, built.dtype) == ("fused", torch.float32)
    torch.testing.assert_close(found, expected(network), rtol=0, atol=1e-5)


def test_bfloat16_differs_by_rounding(network: Segmenter) -> None:
    """Probabilities are float32 whatever the network computes in; few pixels change sides."""
    built, found = made(network, "bf16")
    assert built.dtype is torch.bfloat16
    assert built.form == "fused" or not torch.cpu._is_avx512_bf16_supported()
    assert found.dtype is torch.float32
    difference = (found - expected(network)).abs()
    assert 0 < difference.max() < 0.2
    assert difference.mean() < 0.03
    assert ((found >= 0.5) != (expected(network) >= 0.5)).float().mean() < 0.05


@pytest.mark.parametrize("flaw", [*FLAWED, "missing"])
def test_a_form_that_is_not_right_is_not_used(
    flaw: str, network: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels that compute something else or nothing, or are not there: a warning, and the plain form."""

    def flawed(plain: Segmenter, shapes: Shapes, dtype: torch.dtype) -> Segmenter:
        if flaw == "missing":
            raise RuntimeError("no such operator")
        copy = fused(plain, shapes, dtype)
        copy.decoder.append(FLAWED[flaw])
        return copy

    monkeypatch.setattr(engine, "fused", flawed)
    with caplog.at_level(logging.WARNING):
        built, found = made(network, "fp32")
    assert (built.form, built.dtype) == ("folded", torch.float32)
    assert len(caplog.records) == 1
    torch.testing.assert_close(found, expected(network), rtol=0, atol=1e-5)


def test_bfloat16_that_is_too_far_off_gives_way_to_float32(
    network: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning for each form that was tried."""
    monkeypatch.setitem(engine.TOLERANCES, torch.bfloat16, 1e-9)
    with caplog.at_level(logging.WARNING):
        built, found = made(network, "bf16")
    assert built.dtype is torch.float32
    assert any("torch.bfloat16 is off by" in record.getMessage() for record in caplog.records)
    torch.testing.assert_close(found, expected(network), rtol=0, atol=1e-5)


def test_logits_that_bfloat16_cannot_tell_apart_are_computed_in_float32(network: Segmenter) -> None:
    """They lie close together and far from 0, where a difference that decides the mask is a small part of them."""
    last, bias = last_convolution(network)
    with torch.no_grad():
        last.weight *= 0.01
        bias.copy_(bias * 0.01 - 20)
    built, found = made(network, "bf16")
    assert built.dtype is torch.float32
    torch.testing.assert_close(found, expected(network), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [8, 6, 5])
def test_bits_are_those_of_numpy_and_come_back(size: int) -> None:
    """Whether or not a mask fills its last byte."""
    masks = np.random.default_rng(0).random((3, size, size)) < 0.4
    bits = to_bits(torch.from_numpy(masks)).numpy()
    assert np.array_equal(bits, np.packbits(masks.reshape(3, -1), axis=1))
    back = from_bits(bits, size)
    assert back.dtype == np.bool_
    assert np.array_equal(back, masks)
