from __future__ import annotations

import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaeseg.io.parquet import (
    FINDINGS_SCHEMA,
    SCHEMAS,
    decode_mask,
    encode_mask,
    read_dataset,
    read_masks,
    write_dataset_file,
)

RUN = "20261122T013000-1a2b3c"

FINDING = {
    "run_id": RUN,
    "series_instance_uid": "1.2.3",
    "study_instance_uid": "1.2",
    "model": "phantom-v1",
    "outcome": "segmented",
    "tumour_volume_ml": 0.0,
    "created_at": datetime(2026, 11, 22, 1, 30, tzinfo=UTC),
}


def _mask(shape: tuple[int, int, int], seed: int = 1, share: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def _mask_row(mask: np.ndarray, uid: str) -> dict[str, object]:
    n_slices, rows, columns = mask.shape
    return {
        "run_id": RUN,
        "series_instance_uid": uid,
        "series_key": uid,
        "model": "phantom-v1",
        "n_slices": n_slices,
        "rows": rows,
        "columns": columns,
        "mask": encode_mask(mask),
        "mask_uri": f"masks/1.2/{uid}/phantom-v1/mask.nii.gz",
        "mask_sha256": "0" * 64,
    }


def _publish(root: Path, dataset: str, rows: list[dict[str, object]], name: str = "part-00001.parquet") -> Path:
    path = root / dataset / f"run_id={RUN}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dataset_file(path, dataset, rows)
    return path


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 17)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_any_mask_comes_back(shape: tuple[int, int, int], seed: int, share: float) -> None:
    """Empty, sparse, dense and full masks of any shape."""
    mask = _mask(shape, seed, share)
    decoded = decode_mask(encode_mask(mask))
    np.testing.assert_array_equal(decoded, mask)
    assert decoded.dtype == np.bool_


def test_views_in_any_memory_order_encode_alike() -> None:
    """A mask turned back from axial order is a strided view; its bytes must not depend on that."""
    mask = _mask((4, 6, 8))
    assert encode_mask(np.asfortranarray(mask)[::-1][::-1]) == encode_mask(mask)


def test_the_documented_layout_byte_by_byte() -> None:
    """A reader in another language follows the module's docstring alone."""
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 2, 3:5] = mask[2, 2, 3] = True
    data = encode_mask(mask)
    assert (data[:4], data[4]) == (b"VSMK", 1)
    assert struct.unpack_from("<I", data, 5)[0] == zlib.crc32(data[9:])
    assert struct.unpack_from("<9I", data, 9) == (3, 4, 5, 1, 2, 3, 3, 3, 5)
    assert zlib.decompress(data[45:]) == bytes([0b11100000])


def test_a_small_tumour_in_a_large_ct_takes_few_bytes() -> None:
    """The box, not the volume, is stored: under 10 kB where the native grid has 35 million voxels."""
    mask = np.zeros((134, 512, 512), dtype=bool)
    k, j, i = np.ogrid[:134, :512, :512]
    mask[(k - 60) ** 2 * 4 + (j - 200) ** 2 + (i - 300) ** 2 < 30**2] = True
    assert mask.sum() > 50_000
    assert len(encode_mask(mask)) < 10_000


def test_every_flipped_byte_is_noticed() -> None:
    """Header and voxels are both under the checksum."""
    data = encode_mask(_mask((2, 3, 5)))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(ValueError, match="mask"):
            decode_mask(bytes(damaged))


def test_every_truncation_is_noticed() -> None:
    """Down to nothing at all."""
    data = encode_mask(_mask((2, 3, 5)))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="mask"):
            decode_mask(data[:length])


def _forge(shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...], voxels: bytes) -> bytes:
    body = struct.pack("<9I", *shape, *start, *stop) + zlib.compress(voxels)
    return struct.pack("<4sBI", b"VSMK", 1, zlib.crc32(body)) + body


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (_forge((4_000_000_000,) * 3, (0, 0, 0), (0, 0, 0), b""), "claims"),
        (_forge((2, 2, 2), (0, 0, 0), (1, 1, 3), b"\0"), "leaves its shape"),
        (_forge((2, 2, 2), (1, 0, 0), (0, 2, 2), b""), "leaves its shape"),
        (_forge((2, 2, 2), (0, 0, 0), (2, 2, 2), b"\0" * 10_000_000), "does not hold"),
        (_forge((9, 9, 9), (0, 0, 0), (9, 9, 9), b"\0"), "does not hold"),
    ],
    ids=["huge", "box outside", "box reversed", "bomb", "too few voxels"],
)
def test_forged_headers_allocate_nothing(forged: bytes, message: str) -> None:
    """With a right checksum: a huge shape, a box outside, a bomb, too few voxels."""
    with pytest.raises(ValueError, match=message):
        decode_mask(forged)


def test_only_masks_are_encoded() -> None:
    """Probabilities or a single slice would come back as something else."""
    with pytest.raises(ValueError, match="bool"):
        encode_mask(np.zeros((2, 2, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bool"):
        encode_mask(np.zeros((2, 2), dtype=bool))


def test_masks_are_read_by_series(tmp_path: Path) -> None:
    """The reader gives each mask with its series, and can give one series alone."""
    one, two = _mask((2, 3, 4), 1), _mask((3, 2, 2), 2)
    _publish(tmp_path, "masks", [_mask_row(one, "1.2.1")])
    _publish(tmp_path, "masks", [_mask_row(two, "1.2.2")], "part-00002.parquet")
    stored = list(read_masks(tmp_path))
    assert [row.series_instance_uid for row in stored] == ["1.2.1", "1.2.2"]
    np.testing.assert_array_equal(stored[0].mask, one)
    (only,) = read_masks(tmp_path, "1.2.2")
    assert (only.run_id, only.model, only.series_key) == (RUN, "phantom-v1", "1.2.2")
    np.testing.assert_array_equal(only.mask, two)


def test_files_still_in_staging_are_not_read(tmp_path: Path) -> None:
    """Only the published names count."""
    assert list(read_masks(tmp_path)) == []
    path = _publish(tmp_path, "findings", [FINDING])
    path.rename(path.with_name("half.tmp"))
    assert read_dataset(tmp_path, "findings").num_rows == 0


def test_findings_columns_are_the_agreed_ones() -> None:
    """The interface that must not drift, in its order."""
    agreed = (
        "run_id series_instance_uid study_instance_uid subject_key model outcome reason n_slices tumour_volume_ml "
        "lesion_count largest_lesion_ml iou dice read_seconds segment_seconds measure_seconds mask_uri created_at"
    )
    assert " ".join(FINDINGS_SCHEMA.names) == agreed


def test_unmeasured_is_null_and_measured_nothing_is_zero(tmp_path: Path) -> None:
    """A row without a value has NULL; 0 ml stays 0 ml; the time keeps its zone."""
    _publish(tmp_path, "findings", [FINDING])
    (row,) = read_dataset(tmp_path, "findings").to_pylist()
    assert (row["tumour_volume_ml"], row["iou"], row["n_slices"]) == (0.0, None, None)
    assert row["created_at"] == FINDING["created_at"]


def test_required_columns_cannot_be_null(tmp_path: Path) -> None:
    """A finding without its series would be lost to every join."""
    with pytest.raises(ValueError, match="series_instance_uid"):
        write_dataset_file(tmp_path / "f.parquet", "findings", [{**FINDING, "series_instance_uid": None}])


@pytest.mark.parametrize("dataset", sorted(SCHEMAS))
def test_files_are_compressed_with_zstd(tmp_path: Path, dataset: str) -> None:
    """Every column of every data set."""
    schema = SCHEMAS[dataset]
    of_type = {pa.binary(): b"x", pa.string(): ""}
    row = {field.name: FINDING.get(field.name, of_type.get(field.type, 1)) for field in schema}
    write_dataset_file(tmp_path / "f.parquet", dataset, [row])
    group = pq.ParquetFile(tmp_path / "f.parquet").metadata.row_group(0)
    assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}


def test_other_readers_agree_on_the_run(tmp_path: Path) -> None:
    """run_id is in the directory and in the file; Arrow and DuckDB both read the whole data set."""
    _publish(tmp_path, "findings", [FINDING])
    assert pq.read_table(tmp_path / "findings").column("run_id").to_pylist() == [RUN]
    glob = str(tmp_path / "findings/*/*.parquet")
    assert duckdb.sql(f"SELECT run_id, model FROM read_parquet('{glob}')").fetchall() == [(RUN, "phantom-v1")]
