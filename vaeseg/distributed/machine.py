"""What a machine has: versions, GPUs and memory, as checks for `vaeseg-batch doctor`.

Ray is loaded only to see that it loads.
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import vaeseg
from vaeseg.checks import Check, failed, passed, warned

GIB = 2**30
ENOUGH_MEMORY_BYTES = 4 * GIB
"""A driver, a reader and a model take 1 GiB each; below this one more process may be killed."""
LEAST_MEMORY_BYTES = GIB
ENOUGH_SHARED_BYTES = 2 * GIB
"""What a Ray of our own takes for its objects (`local.OBJECT_STORE_BYTES`)."""
DEVICES = Path("/dev")
SHARED_MEMORY = Path("/dev/shm")
MEMORY_FACTS = Path("/proc/meminfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMORY_USED = Path("/sys/fs/cgroup/memory.current")
MEMORY_PARTS = Path("/sys/fs/cgroup/memory.stat")


def versions() -> dict[str, str]:
    """Of what must be the same on every node.

    Raises:
        ImportError: one of them cannot be loaded.
    """
    libraries = {name: str(importlib.import_module(name).__version__) for name in ("torch", "ray")}
    return {"python": platform.python_version(), "vaeseg": vaeseg.__version__, **libraries}


def version_checks() -> Iterator[Check]:
    """What is installed, each loaded once.

    Raises:
        ImportError: one of them cannot be loaded.
    """
    yield passed("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))


def gpu_check(n_seen: int, n_devices: int) -> Check:
    """Whether torch uses the GPUs that the system has.

    Args:
        n_seen: by torch.
        n_devices: NVIDIA device files.
    """
    if n_devices and not n_seen:
        found = f"{n_devices} NVIDIA devices, and torch sees none"
        return warned("gpus", found, "install a CUDA build of torch that fits the driver ('nvidia-smi' shows it)")
    return passed("gpus", f"{n_seen} GPUs" if n_seen else "none: the model runs on the CPU")


def gpus_seen() -> int:
    """GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_devices() -> int:
    """NVIDIA GPUs that the system has made device files for."""
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in DEVICES.glob("nvidia*"))


def memory_check(available_bytes: int) -> Check:
    """Whether there is memory for a run."""
    found = f"{available_bytes / GIB:.1f} GiB available"
    if available_bytes < LEAST_MEMORY_BYTES:
        return failed("memory", found, "end other programs or take a larger machine: a driver alone takes 1 GiB")
    if available_bytes < ENOUGH_MEMORY_BYTES:
        return warned("memory", found, "a driver, a reader and a model take 1 GiB each: give it more, or fewer CPUs")
    return passed("memory", found)


def memory_available() -> int:
    """Bytes that a process may still take: of the machine, or of the container where that is less.

    Raises:
        OSError: the system does not tell.
    """
    of_machine = _number(r"MemAvailable:\s+(\d+) kB", MEMORY_FACTS) * 1024
    try:
        cached = _number(r"inactive_file (\d+)", MEMORY_PARTS)  # counts as used, and is given up when it is needed
        in_container = int(MEMORY_LIMIT.read_text()) - int(MEMORY_USED.read_text()) + cached
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return of_machine
    return min(of_machine, in_container)


def _number(pattern: str, file: Path) -> int:
    found = re.search(f"^{pattern}$", file.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(0, f"{file} does not say it")
    return int(found[1])


def shared_memory_check(size_bytes: int, needed_bytes: int = ENOUGH_SHARED_BYTES) -> Check:
    """Whether Ray's object store fits into shared memory; Ray itself goes on, on disk."""
    found = f"{size_bytes / GIB:.1f} GiB in {SHARED_MEMORY}"
    if size_bytes < needed_bytes:
        advice = f"give it {needed_bytes / GIB:.0f} GiB (--shm-size of a container): Ray would use the disk, slowly"
        return warned("shared_memory", found, advice)
    return passed("shared_memory", found)
