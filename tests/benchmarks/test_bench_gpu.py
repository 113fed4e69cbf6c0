"""The GPU benchmark runs where there is no GPU, as far as that goes: its code paths, and a clear no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_gpu.py"


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_every_path_runs_on_a_cpu(tmp_path: Path) -> None:
    """Engine, stage and training of each network give figures above zero, in the JSON that the suite writes."""
    done = run("--device", "cpu", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*-gpu.json")
    told = json.loads(path.read_text())
    assert {"measured_at", "commit", "machine", "versions"} <= told.keys()
    assert [len(result["figures"]) for result in told["results"]] == [2, 2, 2, 1, 1]
    assert all(figure["median"] > 0 for result in told["results"] for figure in result["figures"])
    epochs = [note for result in told["results"][3:] for note in result["notes"]]
    assert ["70 epochs" in epochs[0], "50 epochs" in epochs[1]] == [True, True]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    """Exit code 2, one sentence, and no figures; a device of this machine is hidden from it."""
    done = run("--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert not list(tmp_path.iterdir())
