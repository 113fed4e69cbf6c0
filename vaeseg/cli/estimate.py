"""`vaeseg-batch estimate`: how long will a night take, what holds it up, and what does a CT cost?"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import json_option, opened_for_query, store_options
from vaeseg.cli.segmentation import DEFAULT_MODEL
from vaeseg.errors import UsageError
from vaeseg.limits import usable_cores

if TYPE_CHECKING:
    from vaeseg.estimate.night import Machine, Night, Workload
    from vaeseg.estimate.rates import MeasuredRun, Rates
    from vaeseg.paths import AnyPath

CPU_INFO, BF16_FLAG = Path("/proc/cpuinfo"), "avx512_bf16"
NO_GPU = "no GPU was asked about"
NO_PRICE = "no --price-per-hour was given"
NO_SERIES = "there are no series"
NOTICE = "an estimate from what was measured, not a promise"


@click.command()
@click.option("--archive", metavar="NAME", help="The series of this archive that are still to be done.")
@click.option("--all", "everything", is_flag=True, help="With --archive: all its readable series, done or not.")
@click.option("--series", "n_series", type=click.IntRange(min=1), help="So many new series instead of an archive's.")
@click.option("--slices", "slices_a_series", type=click.IntRange(min=1), help="With --series: slices of each.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name of the model, as in findings.")
@click.option("--cpus", "n_cores", type=click.IntRange(min=1), help="Cores, of all nodes; those of this machine.")
@click.option(
    "--nodes",
    "n_nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Without GPUs, a model on each.",
)
@click.option("--gpus", "n_gpus", type=click.IntRange(min=0), default=0, show_default=True, help="Of all nodes.")
@click.option(
    "--gpu-slices-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="What one GPU segments, where no run has measured it.",
)
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0),
    help="Of all these cores and GPUs together, in any currency; without it no cost is told.",
)
@store_options
@json_option
def command(
    archive: str | None,
    everything: bool,
    n_series: int | None,
    slices_a_series: int | None,
    model: str,
    n_cores: int | None,
    n_nodes: int,
    n_gpus: int,
    gpu_slices_per_second: float | None,
    price_per_hour: float | None,
    store: AnyPath,
    db: str | None,
    as_json: bool,
) -> None:
    """Tell how long a night takes, what holds it up, how many cores feed a GPU, and what a CT costs.

    Rates are those of recent runs by the model in the database, on machines with as many cores where there are such;
    where fewer than five series were measured, rates that come with vaeseg for a processor like this
    one. Nothing is started and nothing written.

    Exit codes: 0 ok, 1 the database cannot be read, 2 no such archive or store, an archive that was never scanned,
    options that do not go together, or GPUs of which nothing is known.
    """
    from vaeseg.estimate.choice import choose_rates
    from vaeseg.estimate.night import estimate_night
    from vaeseg.estimate.shipped import shipped_rates

    if gpu_slices_per_second is not None and not n_gpus:
        raise UsageError("--gpu-slices-per-second goes with --gpus")
    machine = _machine(n_cores, n_nodes, n_gpus)
    if archive is not None:
        if n_series is not None or slices_a_series is not None:
            raise UsageError("give --archive, or --series and --slices")
        workload, runs = _of_archive(archive, everything, model, store, db)
    else:
        workload, runs = _of_numbers(n_series, slices_a_series, everything), _runs(model, store, db)
    rates = choose_rates(runs, machine, model, shipped_rates(_has_bf16()), gpu_slices_per_second)
    night = estimate_night(workload, machine, rates)
    shown = _as_json(night, rates, model, price_per_hour)
    if as_json:
        print(json.dumps(shown))
        return
    for line in _lines(night, rates, shown):
        print(line)
    print(NOTICE, file=sys.stderr)


def _machine(n_cores: int | None, n_nodes: int, n_gpus: int) -> Machine:
    from vaeseg.estimate.night import Machine

    try:
        return Machine(n_cores=n_cores or usable_cores(), n_gpus=n_gpus, n_nodes=n_nodes)
    except ValueError as error:
        raise UsageError(f"{error}; give more --cpus") from error


def _has_bf16() -> bool:
    """Whether this machine's processor multiplies bfloat16, as `models.precision` asks torch, which takes a second."""
    try:
        return BF16_FLAG in CPU_INFO.read_text().split()
    except OSError:
        return False


def _of_archive(
    archive: str, everything: bool, model: str, store: AnyPath, db: str | None
) -> tuple[Workload, list[MeasuredRun]]:
    from vaeseg.db.rates import archive_workload, measured_runs

    with opened_for_query(store, db) as database:
        return archive_workload(database, archive, model, everything=everything), measured_runs(database, model)


def _of_numbers(n_series: int | None, slices_a_series: int | None, everything: bool) -> Workload:
    """New series, of which each slice is a file that no scan has read."""
    from vaeseg.estimate.night import Workload

    if n_series is None or slices_a_series is None:
        raise UsageError("give --archive, or --series and --slices")
    if everything:
        raise UsageError("--all goes with --archive")
    n_slices = n_series * slices_a_series
    return Workload(n_series=n_series, n_slices=n_slices, n_new_files=n_slices)


def _runs(model: str, store: AnyPath, db: str | None) -> list[MeasuredRun]:
    """None where there is no store yet: an estimate is asked for before there is one."""
    from vaeseg.db.rates import measured_runs
    from vaeseg.io.store import Store

    if db is None and not Store(store.absolute()).database_path.is_file():
        return []
    with opened_for_query(store, db) as database:
        return measured_runs(database, model)


def _as_json(night: Night, rates: Rates, model: str, price_per_hour: float | None) -> dict[str, Any]:
    from vaeseg.estimate.night import PUBLISHED_COST_A_CT, PUBLISHED_SECONDS_A_CT

    workload, machine, n_series = night.workload, night.machine, night.workload.n_series
    cost = None if price_per_hour is None or not n_series else night.cost_a_ct(price_per_hour)
    return {
        "model": model,
        "n_series": n_series,
        "n_slices": workload.n_slices,
        "n_new_files": workload.n_new_files,
        "cpus": machine.n_cores,
        "nodes": machine.n_nodes,
        "gpus": machine.n_gpus,
        "seconds": _rounded(night.seconds),
        "start_seconds": _rounded(night.start_seconds),
        "busy_seconds": {name: _rounded(seconds) for name, seconds in night.busy_seconds.items()},
        "stage_seconds": {stage: _rounded(seconds) for stage, seconds in night.stage_seconds.items()},
        "bottleneck": night.bottleneck,
        "cores_per_gpu": None if night.cores_per_gpu is None else _rounded(night.cores_per_gpu),
        "cores_per_gpu_reason": NO_GPU if night.cores_per_gpu is None else None,
        "machine_seconds_per_ct": _rounded(night.machine_seconds_a_ct),
        "cost_per_ct": cost,
        "cost_reason": None if cost is not None else NO_SERIES if price_per_hour is not None else NO_PRICE,
        "published": {"machine_seconds_per_ct": PUBLISHED_SECONDS_A_CT, "cost_per_ct": PUBLISHED_COST_A_CT},
        "rates": _rates_as_json(rates),
    }


def _rates_as_json(rates: Rates) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(rates)


def _rounded(value: float) -> float | None:
    """Three digits behind the point; null for what is not known."""
    return round(value, 3) if math.isfinite(value) else None


def _lines(night: Night, rates: Rates, shown: dict[str, Any]) -> Iterator[str]:
    machine, workload = night.machine, night.workload
    yield f"work      {workload.n_series} series, {workload.n_slices} slices, {workload.n_new_files} files to be read"
    yield f"machine   {machine.n_cores} cores, {machine.n_gpus} GPUs"
    yield f"rates     {rates.source}; measured with {rates.n_cores} cores"
    yield f"time      {_duration(night.seconds)}, {_duration(night.start_seconds)} of it to start and end"
    yield f"held up   by {_held_up_by(night)}"
    if night.cores_per_gpu is not None:
        yield f"feeding   a GPU takes {night.cores_per_gpu:.1f} cores"
    if workload.n_series:
        yield f"a CT      {night.machine_seconds_a_ct:.1f} machine-seconds; {_cost(shown)}"
        published = shown["published"]
        yield (
            f"published {published['machine_seconds_per_ct']:.0f} machine-seconds and about "
            f"${published['cost_per_ct']} a CT, by another network (docs/estimate.md)"
        )


def _held_up_by(night: Night) -> str:
    match night.bottleneck:
        case "cores":
            return f"the cores, which have most to {night.longest_stage}"
        case "model":
            return "the GPUs" if night.machine.n_gpus else "the cores, which have most to segment"
        case "driver":
            return "the driver, which hands out and commits series one by one"
    return "what comes before and after the series: too few of them to matter"


def _cost(shown: dict[str, Any]) -> str:
    cost, reason = shown["cost_per_ct"], shown["cost_reason"]
    return f"no cost: {reason}" if cost is None else f"costs {cost:.2g}, in the currency of --price-per-hour"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
