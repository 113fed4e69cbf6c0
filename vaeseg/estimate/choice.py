"""Which rates are those of a machine: measured ones where there are enough, else those that come with vaeseg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vaeseg.errors import UsageError
from vaeseg.estimate.night import Machine
from vaeseg.estimate.rates import FEWEST_SERIES, Device, MeasuredRun, Rates, StageRate, measured_rates


def choose_rates(
    runs: Sequence[MeasuredRun],
    machine: Machine,
    model: str,
    shipped: Rates,
    gpu_slices_per_second: float | None = None,
) -> Rates:
    """Rates for a machine.

    What was measured on processors says nothing about a GPU: without a run on one, its rate has to be given.

    Args:
        runs: by the model, newest first.
        machine: without a GPU, runs on as many cores are preferred.
        model: its name.
        shipped: where too little was measured.
        gpu_slices_per_second: what one GPU segments, as the user says; None to take it from runs.

    Raises:
        UsageError: nothing is known of a GPU.
    """
    if not machine.n_gpus:
        return _measured(runs, "cpu", machine.n_cores, shipped) or _with_reason(shipped, runs)
    on_gpus = _measured(runs, "cuda", machine.n_cores, shipped)
    if gpu_slices_per_second is not None:
        others = on_gpus or _measured(runs, "cpu", machine.n_cores, shipped) or _with_reason(shipped, runs)
        return _with_gpu(others, gpu_slices_per_second)
    if on_gpus is None:
        raise UsageError(
            f"no run of {model} on a GPU has segmented {FEWEST_SERIES} series yet, and no figure for one is shipped: "
            "submit some with --device cuda, or say --gpu-slices-per-second"
        )
    return on_gpus


def _measured(runs: Sequence[MeasuredRun], device: Device, n_cores: int, shipped: Rates) -> Rates | None:
    """Of the newest machines, those with as many cores first; None where no machines did enough."""
    groups: dict[tuple[int, int], list[MeasuredRun]] = {}
    for run in sorted((run for run in runs if run.device == device), key=lambda run: run.n_cores != n_cores):
        groups.setdefault((run.n_cores, run.n_nodes), []).append(run)
    for group in groups.values():
        if sum(len(run.n_slices) for run in group) >= FEWEST_SERIES:
            return measured_rates(group, shipped.start)
    return None


def _with_reason(shipped: Rates, runs: Sequence[MeasuredRun]) -> Rates:
    n_series = sum(len(run.n_slices) for run in runs if run.device == "cpu")
    why = f"{n_series} series were measured here on processors, {FEWEST_SERIES} on like machines are needed"
    return replace(shipped, source=f"{shipped.source}; {why}")


def _with_gpu(rates: Rates, slices_per_second: float) -> Rates:
    """The same with a GPU of a given rate; what cores do waits for no other work of theirs any more."""
    read, measure = (
        StageRate(
            seconds_a_series=rate.seconds_a_series / rates.waiting, seconds_a_slice=rate.seconds_a_slice / rates.waiting
        )
        for rate in (rates.read, rates.measure)
    )
    return replace(
        rates,
        device="cuda",
        read=read,
        segment=StageRate(seconds_a_series=0.0, seconds_a_slice=1 / slices_per_second),
        measure=measure,
        waiting=1.0,
        source=f"{rates.source}; {slices_per_second:g} slices/s of a GPU as given, not measured",
    )
