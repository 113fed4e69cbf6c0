"""What the time of a run went to."""

from __future__ import annotations

import pytest
from ledger_factories import Clock

from vaeseg.distributed.local import Hardware
from vaeseg.distributed.pace import Pace
from vaeseg.records import FailedSeries, SegmentedSeries, SeriesRef

HARDWARE = Hardware(n_cores=8, n_gpus=1, n_nodes=2)
REF = SeriesRef(series_instance_uid="1.2.3", study_instance_uid="1.2", subject_key=None)
FAILED = FailedSeries(ref=REF, reason="decode_failed", detail="slice 2 of 3")


def segmented(**seconds: float) -> SegmentedSeries:
    return SegmentedSeries(
        ref=REF,
        n_slices=3,
        tumour_volume_ml=0.0,
        lesions=(),
        slices=(),
        mask_uri="masks/mask.nii.gz",
        mask_sha256="d" * 64,
        mask_encoding=b"",
        mask_shape=(3, 4, 5),
        **seconds,
    )


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(now=lambda: clock().timestamp())


def portion(pace: Pace, clock: Clock, ray_seconds: float, first_after: float) -> None:
    """Planned in a second; then Ray, and a first series of which the stages took 3.5 s."""
    clock.advance(1.0)
    pace.portion_begins()
    clock.advance(ray_seconds)
    pace.ray_is_up("cuda", HARDWARE)
    clock.advance(first_after)
    pace.came(segmented(read_seconds=1.0, segment_seconds=2.0, measure_seconds=0.5))


def test_every_second_of_a_run_goes_somewhere(pace: Pace, clock: Clock) -> None:
    """Two portions: 2 s index, 1 s planning each, 4 s Ray, 6.5 and 5 s to load the model, then busy; 1 s at the end."""
    clock.advance(2.0)
    pace.indexed(70)
    portion(pace, clock, ray_seconds=4.0, first_after=10.0)
    clock.advance(5.0)
    pace.came(FAILED)
    portion(pace, clock, ray_seconds=0.0, first_after=8.5)
    clock.advance(1.0)
    assert pace.counts() == {
        "device": "cuda",
        "n_cores": 8,
        "n_gpus": 1,
        "n_nodes": 2,
        "n_headers": 70,
        "n_segmented": 2,
        "n_portions": 2,
        "index_seconds": 2.0,
        "planning_seconds": 2.0,
        "ray_seconds": 4.0,
        "pipeline_seconds": 11.5,
        "busy_seconds": 3.5 + 5.0 + 3.5,
        "closing_seconds": 1.0,
    }


def test_a_model_that_was_there_at_once_took_no_time(pace: Pace, clock: Clock) -> None:
    """A first series that came in less than its stages took, by another clock, does not make the start negative."""
    portion(pace, clock, ray_seconds=0.0, first_after=2.0)
    counts = pace.counts()
    assert counts is not None
    assert (counts["pipeline_seconds"], counts["busy_seconds"]) == (0.0, 2.0)


def test_a_run_without_a_pipeline_has_no_pace(pace: Pace) -> None:
    """Nothing to do, or nothing came back: unmeasured, and not 0."""
    assert pace.counts() is None
    pace.portion_begins()
    pace.ray_is_up("cpu", HARDWARE)
    assert pace.counts() is None
