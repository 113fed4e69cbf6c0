"""What the ledger compares must not change by itself."""

from __future__ import annotations

from dataclasses import asdict, replace

from vaeseg.canonical import digest
from vaeseg.config import RunConfig, SegmentationConfig


def test_work_that_is_done_stays_done() -> None:
    """Without an organ the digest is what it was before there were any; each organ is other work."""
    config = SegmentationConfig(with_labels=True)
    assert digest(config) == "983f5639192b27992414f5320b7fd7e2aa226347a16e92e0d6c0da8adc8ade57"
    assert len({digest(replace(config, organ=organ)) for organ in (None, 1, 2)}) == 3


def test_a_run_of_before_has_no_organ() -> None:
    """Its config, as it was kept then, is read; one of today comes back as it is."""
    config = RunConfig(model_path="m", segmentation=SegmentationConfig(organ=2))
    kept = asdict(config)
    assert RunConfig.from_json(kept) == config
    del kept["segmentation"]["organ"]
    assert RunConfig.from_json(kept).segmentation == SegmentationConfig()
