"""What the benchmarks of a whole submission check before they time, and whom they watch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def writes(series: dict[str, bytes], folder: str) -> Callable[[Path, Path], None]:
    """A path that leaves these mask files behind."""

    def work(_archive: Path, store: Path) -> None:
        for uid, content in series.items():
            directory = store / "masks" / "1.2" / uid / folder
            directory.mkdir(parents=True)
            (directory / "mask.nii.gz").write_bytes(content)

    return work


@pytest.mark.parametrize("other", [{"1.3": b"mask", "1.4": b"other"}, {"1.3": b"mask"}, {}])
def test_masks_that_differ_stop_the_benchmark(other: dict[str, bytes], tmp_path: Path) -> None:
    """Another content, a series that is missing, or all of them; where the files lie below the series is no matter."""
    from bench_pipeline import _compared

    ours = {"1.3": b"mask", "1.4": b"mask"}
    same = {"ours": writes(ours, "model"), "script": writes(ours, "script")}
    assert _compared(same, tmp_path, tmp_path / "store").startswith("2 mask files")
    with pytest.raises(AssertionError, match="masks of 'ours' and 'script' differ"):
        _compared(same | {"script": writes(other, "script")}, tmp_path, tmp_path / "store")


def test_workers_of_ray_are_told_from_its_daemons() -> None:
    """By the name that Ray gives them; a process that has just ended has no command."""
    from bench_memory import _is_worker

    commands = [["ray::Map(read)"], ["ray::IDLE"], ["/opt/ray/raylet", "--session"], ["python", "ray::x"], []]
    assert [_is_worker(command) for command in commands] == [True, True, False, False, False]
