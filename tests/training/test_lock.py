"""Two processes do not train a model of one name."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from vaeseg.errors import StoreError, UsageError
from vaeseg.training.lock import locked

HOLDER = """
import sys, time
from pathlib import Path
from vaeseg.training.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaeseg.training.lock.WAIT_SECONDS", 0.0)


def test_a_training_is_alone_until_its_process_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's is told by name; SIGKILL frees it, and who waits a moment gets it."""
    directory = tmp_path / "m.training"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, directory], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="m is being trained by another process"), locked(directory):
            raise AssertionError
        with locked(tmp_path / "other.training"):
            pass
        monkeypatch.setattr("vaeseg.training.lock.WAIT_SECONDS", 30.0)
        holder.kill()
        with locked(directory):
            pass


def test_a_lock_ends_with_an_error(tmp_path: Path) -> None:
    """What failed can be tried again in the same process."""
    with pytest.raises(KeyError), locked(tmp_path / "m.training"):
        raise KeyError
    with locked(tmp_path / "m.training"):
        pass


def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before there were any; a directory that cannot be written is told."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path / "m.training"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="model m cannot be written"), locked(tmp_path / "file" / "m.training"):
        raise AssertionError
