"""What the index keeps of a file's header, as an older reader left it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from factories import write_series
from reading import CONFIG

from vaeseg.io.archive import read_file
from vaeseg.io.file_index import indexed, judge_group
from vaeseg.io.listing import FoundFile


def test_a_header_without_the_newest_value_is_judged(tmp_path: Path) -> None:
    """A file that cannot be read again keeps what an older reader wrote: the same work, as far as masks go."""
    records = [
        read_file(tmp_path, FoundFile(path=path.name, size=path.stat().st_size, mtime_ns=1), CONFIG, None)
        for path in write_series(tmp_path).paths
    ]
    files = [indexed(record) for record in records]
    older = [replace(file, header=json.dumps(json.loads(file.header or "")[:-1])) for file in files]
    ((new,), (old,)) = (judge_group(tmp_path, group, CONFIG, is_beside_damage=False) for group in (files, older))
    assert old.manifest is not None
    assert new.manifest is not None
    assert old.manifest.lps_from_kji == new.manifest.lps_from_kji
    assert old.fingerprint == new.fingerprint
