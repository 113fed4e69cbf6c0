"""Writing whole files: what is no file is left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vaeseg.durable import write_atomically


def test_a_file_takes_the_place_of_a_file(tmp_path: Path) -> None:
    """Or of nothing; no other name stays behind."""
    for data in (b"one", b"two"):
        write_atomically(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(os.devnull)])
def test_what_is_no_file_stays(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A rename would put a file in place of a pipe or a device, and of a link such as /dev/stdout."""
    make(tmp_path / "taken")
    mode = (tmp_path / "taken").lstat().st_mode
    with pytest.raises(OSError, match="no file"):
        write_atomically(tmp_path / "taken", b"data")
    assert (tmp_path / "taken").lstat().st_mode == mode
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
