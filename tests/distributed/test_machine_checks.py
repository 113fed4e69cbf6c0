"""What is wrong with a machine is found before a night; figures are injected."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaeseg.checks import ArchiveRoot
from vaeseg.distributed import local, machine, machine_checks
from vaeseg.distributed.machine import (
    ENOUGH_SHARED_BYTES,
    GIB,
    gpu_check,
    gpu_devices,
    memory_check,
    shared_memory_check,
)
from vaeseg.distributed.machine_checks import machine_facts


def test_gpus_that_torch_does_not_see_are_a_warning() -> None:
    """A CPU build of torch on a machine with GPUs; none at all is well."""
    assert gpu_check(0, 0).status == "ok"
    assert gpu_check(2, 2).found == "2 GPUs"
    check = gpu_check(0, 2)
    assert (check.status, check.found) == ("warning", "2 NVIDIA devices, and torch sees none")


def test_device_files_of_gpus_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of control devices are none."""
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    assert gpu_devices() == 2


@pytest.mark.parametrize(("available", "status"), [(GIB - 1, "failed"), (GIB, "warning"), (4 * GIB, "ok")])
def test_memory_that_is_short_is_told(available: int, status: str) -> None:
    """A driver alone takes 1 GiB."""
    assert memory_check(available).status == status


def test_shared_memory_holds_what_ray_takes() -> None:
    """A container's 64 MiB are a warning; the figure is the one that our own Ray is started with."""
    assert ENOUGH_SHARED_BYTES == local.OBJECT_STORE_BYTES
    assert shared_memory_check(64 * 2**20).status == "warning"
    assert shared_memory_check(ENOUGH_SHARED_BYTES).status == "ok"


def test_a_library_that_does_not_load_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is compared by a version; the other checks are made all the same."""

    def versions() -> dict[str, str]:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(machine, "versions", versions)
    facts = machine_facts(None, "phantom-v1", [])
    by_name = {check.name: check for check in facts.checks}
    assert by_name["versions"].found == "ImportError: libcudart.so.12: cannot open shared object file"
    assert facts.versions == {}
    assert by_name["model"].status == "ok"
    assert facts.model_digest is not None
    assert len(facts.model_digest) == 64


def test_each_archive_is_looked_at_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs does not hide the next."""
    roots = [
        ArchiveRoot(name=name, root=str(tmp_path / name), n_files=0, is_registered=True) for name in ("gone", "ward")
    ]
    (tmp_path / "ward").mkdir()
    monkeypatch.setattr(machine_checks, "_codecs", lambda: [])
    found = [check for check in machine_facts(None, "phantom-v1", roots).checks if check.name == "archives"]
    assert [check.status for check in found] == ["failed", "ok"]
