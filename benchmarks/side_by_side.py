"""What every benchmark of the suite shares: paths run in turns, medians and spread, and where it was measured.

A benchmark is a module with a function `benchmark(scratch, rounds)` that compares outputs first and returns a `Result`.
Ratios of one run are what counts: machines are noisy, so that every round runs each path once, one after the other.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from vaeseg.models.provenance import source_commit

OURS = "vaeseg"
PACKAGES = (
    "vaeseg", "torch", "numpy", "scipy", "ray", "pydicom", "SimpleITK", "onnxruntime", "openvino", "monai", "isal",
    "pyjpegls", "python-gdcm", "pylibjpeg-openjpeg", "pylibjpeg-rle",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one path did in every round."""

    path: str
    rounds: tuple[float, ...]
    """In the unit of the result."""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One benchmark, or one of its parts."""

    benchmark: str
    unit: str
    """Such as ``slices/s``."""
    checked: str
    """What was compared before anything was timed, and how it came out."""
    figures: tuple[Figure, ...]
    """Ours first."""
    more_is_better: bool = True
    is_of_parts: bool = False
    """Whether figures are parts of the first, so that a ratio means nothing."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else was measured, and who could not take part."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, with medians and how many times better ours is."""
        own = self.figures[0]
        figures = [
            {**asdict(figure), "median": figure.median, "ours_is_times_better": self._times_better(own, figure)}
            for figure in self.figures
        ]
        return {**asdict(self), "figures": figures}

    def _times_better(self, own: Figure, other: Figure) -> float:
        return own.median / other.median if self.more_is_better else other.median / own.median


def in_turns(paths: Mapping[str, Callable[[], float]], rounds: int) -> tuple[Figure, ...]:
    """Call each path once a round; the order turns round by one, so that nobody always comes first.

    Args:
        paths: by name, ours first; each returns its own figure.
        rounds: at least 1.
    """
    names = list(paths)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            found[name].append(paths[name]())
    return tuple(Figure(path=name, rounds=tuple(found[name])) for name in names)


def rate_of(work: Callable[[], object], units: int) -> Callable[[], float]:
    """A path that tells units a second of some work."""

    def measured() -> float:
        started = time.perf_counter()
        work()
        return units / (time.perf_counter() - started)

    return measured


def seconds_of(work: Callable[[], object]) -> Callable[[], float]:
    """A path that tells the seconds of some work."""

    def measured() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measured


def where_and_with_what() -> dict[str, Any]:
    """Machine, versions, commit and time."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": {
            "processor": _processor(),
            "instructions": _instructions(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpu": _gpu(),
            "system": platform.platform(),
        },
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **_versions()},
    }


def table(results: Sequence[Result]) -> str:
    """Markdown: a row for each path of each benchmark."""
    rows = ["| benchmark | path | median | spread | ours is |", "|---|---|---|---|---|"]
    for result in results:
        for figure, told in zip(result.figures, result.as_json()["figures"], strict=True):
            is_ours = figure is result.figures[0]
            times = "" if is_ours or result.is_of_parts else f"{told['ours_is_times_better']:.2f} x"
            spread = f"{_shown(min(figure.rounds))} to {_shown(max(figure.rounds))}"
            name = f"**{figure.path}**" if is_ours else figure.path
            rows.append(f"| {result.benchmark} | {name} | {_shown(figure.median)} {result.unit} | {spread} | {times} |")
    return "\n".join(rows)


def run_alone(program: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, whose memory and imports are its own too."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=True,
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _instructions() -> str:
    """Of torch's kernels, and whether the processor multiplies bfloat16."""
    import torch

    with_bf16 = ", bfloat16" if torch.cpu._is_avx512_bf16_supported() else ""
    return torch.backends.cpu.get_cpu_capability() + with_bf16


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
