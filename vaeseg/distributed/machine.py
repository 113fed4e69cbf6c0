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


def shared_memory_check(size_bytes: int) -> Check:
    """Whether Ray's object store fits into shared memory; Ray itself goes on, on disk."""
    found = f"{size_bytes / GIB:.1f} GiB in {SHARED_MEMORY}"
    if size_bytes < ENOUGH_SHARED_BYTES:
        advice = f"give it {ENOUGH_SHARED_BYTES // GIB} GiB (--shm-size of a container): Ray would use the disk, slowly"
        return warned("shared_memory", found, advice)
    return passed("shared_memory", found)
