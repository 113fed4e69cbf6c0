"""The benchmark suite: ours beside what a user would do instead, in one run; `make bench`.

    python benchmarks/bench.py [--only engine,reading] [--rounds 5] [--scratch DIR] [--out benchmarks/results]

Each benchmark compares outputs before it times anything, and stops the suite where they differ. Prints one table, and
writes it with JSON (machine, versions, commit, every round) to --out. Peers that are not installed are left out:
`pip install -c constraints.txt -r benchmarks/peers.txt` brings them. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import Result, table, where_and_with_what

BENCHMARKS = ("engine", "reading", "pipeline", "start_up", "indexing", "training", "streaming", "memory")
"""Modules ``bench_NAME``, in the order in which they run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="for archives and stores, kept; else temporary")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    measured = where_and_with_what()
    results: list[Result] = []
    with TemporaryDirectory() as temporary:
        scratch = (arguments.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        for name in arguments.only.split(","):
            print(f"== {name}", flush=True)
            found = importlib.import_module(f"bench_{name}").benchmark(scratch, arguments.rounds)
            print(table(found), flush=True)
            results += found
            _write(arguments.out, measured, results)
    print(f"\n{table(results)}\n\nwritten to {arguments.out}")


def _write(directory: Path, measured: dict[str, object], results: list[Result]) -> None:
    """After every benchmark, so that what was measured is kept whatever comes."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = str(measured["measured_at"])[:10]
    told = {**measured, "results": [result.as_json() for result in results]}
    (directory / f"{stem}.json").write_text(json.dumps(told, indent=1) + "\n")
    machine = measured["machine"]
    assert isinstance(machine, dict)
    head = f"Measured {measured['measured_at']} on {machine['processor']}, {machine['cores']} cores, commit "
    (directory / f"{stem}.md").write_text(f"{head}{str(measured['commit'])[:12]}.\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
