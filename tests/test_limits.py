"""What a process may take, where machine, container and service each have a say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaeseg import limits

MACHINE_CORES = len(os.sched_getaffinity(0))
NO_LIMIT = "9223372036854771712"
"""What version 1 says of memory without one."""


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 2 MiB and eight cores, whose control groups are files below."""
    (tmp_path / "meminfo").write_text("MemTotal:  4096 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n")
    monkeypatch.setattr(limits, "MEMORY_FACTS", tmp_path / "meminfo")
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "fs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "300000 100000"}, 3),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "10000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "6400000 100000"}, 8),
        ("0::/night.slice/scan.service", {"night.slice/scan.service/cpu.max": "400000 100000"}, 4),
        (
            "0::/night.slice/scan.service",
            {"night.slice/cpu.max": "200000 100000", "night.slice/scan.service/cpu.max": "max 100000"},
            2,
        ),
        ("0::/here", {"elsewhere/cpu.max": "100000 100000"}, 8),
        (
            "5:cpuacct,cpu:/docker/1f\n4:memory:/docker/1f",
            {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"},
            5,
        ),
        (
            "5:cpu:/a/b\n0::/",
            {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"},
            8,
        ),
        ("0::/scan:one", {"scan:one/cpu.max": "100000 100000"}, 1),
        ("0::/../..", {"cpu.max": "0 0"}, 8),
        ("0::/", {"cpu.max": "0 100000"}, 1),
        ("0::\nno group at all\n\n7:name=systemd", {"cpu.max": "200000 100000"}, 2),
        ("4:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_share_of_time_is_a_number_of_cores(own: str, files: dict[str, str], cores: int, groups: Path) -> None:
    """Of the group that the process is in and of all around it, in both versions; rounded up, and never none."""
    _write(groups, own, files)
    assert limits.usable_cores() == cores


def test_cores_are_those_that_a_process_is_bound_to() -> None:
    """As by taskset, or a batch system: here, with the machine's own files."""
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from vaeseg.limits import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1
    assert 1 <= limits.usable_cores() <= MACHINE_CORES


@pytest.mark.parametrize(
    ("own", "files", "available_kib"),
    [
        ("0::/", {}, 2048),
        ("0::/", {"memory.max": "max", "memory.current": "900", "memory.stat": "inactive_file 0"}, 2048),
        (
            "0::/",
            {"memory.max": "1048576", "memory.current": "524288", "memory.stat": "anon 5\ninactive_file 102400\nx 7"},
            612,
        ),
        ("0::/", {"memory.max": "8388608", "memory.current": "0", "memory.stat": "inactive_file 0"}, 2048),
        (
            "0::/scan.service",
            {
                "scan.service/memory.max": "1048576",
                "scan.service/memory.current": "0",
                "scan.service/memory.stat": "inactive_file 0",
            },
            1024,
        ),
        (
            "0::/",
            {
                "memory.max": "max",
                "memory.high": "1048576",
                "memory.current": "2097152",
                "memory.stat": "inactive_file 0",
            },
            0,
        ),
        (
            "4:memory:/docker/1f",
            {
                "memory/memory.limit_in_bytes": "1048576",
                "memory/memory.usage_in_bytes": "524288",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 102400",
            },
            612,
        ),
        (
            "4:memory:/",
            {
                "memory/memory.limit_in_bytes": NO_LIMIT,
                "memory/memory.usage_in_bytes": "524288",
                "memory/memory.stat": "total_inactive_file 0",
            },
            2048,
        ),
    ],
)
def test_the_limit_of_a_container_counts(own: str, files: dict[str, str], available_kib: int, groups: Path) -> None:
    """Where it is less than the machine's memory; the cache of files does not count as used."""
    _write(groups, own, files)
    assert limits.memory_available() == available_kib * 1024


def test_a_system_without_control_groups_has_no_limits(groups: Path) -> None:
    """The file of own groups is not there."""
    assert (limits.usable_cores(), limits.memory_available()) == (8, 2048 * 1024)


def test_a_group_may_have_any_name(groups: Path) -> None:
    """Bytes that are no UTF-8 among them."""
    (groups / "own").write_bytes(b"0::/\xff\n")
    (groups / "fs").mkdir()
    (groups / "fs" / "cpu.max").write_text("100000 100000")
    assert limits.usable_cores() == 1


def _write(groups: Path, own: str, files: dict[str, str]) -> None:
    (groups / "own").write_text(f"{own}\n")
    for name, content in files.items():
        (groups / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / "fs" / name).write_text(f"{content}\n")
