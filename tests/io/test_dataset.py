"""A prepared data set reads back what was written, reads no more than it needs, and notices damage."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from dataset_factories import SIZE, volume, write_data_set

from vaeseg.config import PreprocessingConfig
from vaeseg.errors import StoreError, UsageError
from vaeseg.io import row_groups
from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.io.dataset_writer import clear
from vaeseg.io.location import locate
from vaeseg.io.slices import PreparedVolume
from vaeseg.paths import matches
from vaeseg.remote import RemotePath

NAMES = ("c", "a", "b", "d")


def volumes(bits: int = 8, with_labels: bool = True, n_slices: int = 50) -> list[PreparedVolume]:
    return [volume(name, n_slices + n, bits, with_labels) for n, name in enumerate(NAMES)]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row group a shard."""
    monkeypatch.setattr(row_groups, "SHARD_BYTES", 1)


@pytest.fixture
def location(tmp_path: Path, small_shards: None) -> Path:
    write_data_set(tmp_path / "set", volumes())
    return tmp_path / "set"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("with_labels", [True, False])
def test_what_was_written_is_read(tmp_path: Path, bits: int, with_labels: bool) -> None:
    """Pixels, labels and index come back as they were, in the order of the volumes and not of their names."""
    written = volumes(bits, with_labels)
    write_data_set(tmp_path, written, bits, with_labels)
    data = open_data_set(str(tmp_path))
    read, index = data.read(), data.index
    assert read.images.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(read.images, np.concatenate([each.slices.images for each in written]))
    assert index.subjects == NAMES
    assert np.bincount(index.subject_of_slice).tolist() == [50, 51, 52, 53]
    assert index.slice_of_subject[48:53].tolist() == [48, 49, 0, 1, 2]
    assert index.tokens[0] == ("token-c",)
    assert index.spacing_mm[7].tolist() == [2.5, 0.75, 0.5]
    assert index.has_labels is with_labels
    if not with_labels:
        assert read.packed_labels is None
        assert not index.tumour_pixels.any()
        return
    assert index.tumour_pixels[50:54].tolist() == [0, 1, 2, 3]
    assert read.labels(np.array([52]))[0].sum() == 2
    assert data.manifest.n_label_slices == 49 + 50 + 51 + 52


def test_random_access_reads_in_the_order_given(location: Path) -> None:
    """Slices of several shards, out of order and one of them twice, are the ones asked for."""
    data = open_data_set(str(location))
    assert len(data.manifest.shards) == 4
    everything, indices = data.read(), np.array([200, 3, 64, 63, 3])
    some = data.read(indices)
    assert np.array_equal(some.images, everything.images[indices])
    assert np.array_equal(some.labels(np.arange(5)), everything.labels(indices))
    assert len(data.read(np.array([], dtype=int))) == 0
    with pytest.raises(IndexError, match="206"):
        data.read(np.array([206]))


def test_random_access_reads_only_what_it_needs(location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices of one row group cost one row group."""
    asked: list[int] = []
    read_row_group = DataSet.read_row_group
    monkeypatch.setattr(DataSet, "read_row_group", lambda self, n: asked.append(n) or read_row_group(self, n))
    data = open_data_set(str(location))
    data.read(np.array([130, 70, 128]))
    assert asked == [1, 2]
    assert data.row_group_of_slice[[0, 63, 64, 205]].tolist() == [0, 0, 1, 3]
    assert len(data.read_row_group(3)) == len(data) - 192


def test_digest_is_of_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of another size change nothing; a pixel, a label, the order, the preprocessing, or a token does."""
    base = write_data_set(tmp_path / "a", volumes()).digest
    assert write_data_set(tmp_path / "b", volumes()).digest == base
    monkeypatch.setattr(row_groups, "SHARD_BYTES", 1)
    assert write_data_set(tmp_path / "c", volumes()).digest == base
    pixel, label = volumes(), volumes()
    pixel[2].slices.images[1, 2, 3] ^= 1
    assert label[2].slices.packed_labels is not None
    label[2].slices.packed_labels[1, 2, 1] ^= 0x80
    wider = PreprocessingConfig(image_size=SIZE, window_low_hu=-1100)
    others = [
        write_data_set(tmp_path / "d", pixel),
        write_data_set(tmp_path / "e", label),
        write_data_set(tmp_path / "f", volumes()[::-1]),
        write_data_set(tmp_path / "g", volumes(), preprocessing=wider),
        write_data_set(tmp_path / "h", volumes(with_labels=False), with_labels=False),
    ]
    assert len({base, *(manifest.digest for manifest in others)}) == 6


def test_the_digest_of_format_1_stays_what_it_is(tmp_path: Path) -> None:
    """Data sets on disk carry it, and models name it: whoever changes what it covers raises FORMAT_VERSION."""
    assert (
        write_data_set(tmp_path, [volume("a")]).digest
        == "ab563495521efd7dd61f154330a6b618803ceb3fba6fa7bd7d249f9129a3f41d"
    )


def test_splits_are_stored_as_nnunet_has_them(tmp_path: Path) -> None:
    """Names by part, one entry a fold; what is read back are slice indices."""
    write_data_set(tmp_path, volumes(), n_folds=4)
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    assert len(folds) == 4
    assert {*folds[0]} == {"train", "val", "test"}
    data = open_data_set(str(tmp_path))
    test = data.splits["subject"][1].test
    assert [data.index.subjects[s] for s in np.unique(data.index.subject_of_slice[test])] == folds[1]["test"]
    assert len(data.splits["slice"]) == 4
    assert json.loads((tmp_path / "splits_slices.json").read_text())[0]["val"][0].count("/") == 1


def test_two_subjects_have_no_split_by_subject(tmp_path: Path) -> None:
    """A data set too small to be split is one all the same."""
    write_data_set(tmp_path, volumes()[:2])
    splits = open_data_set(str(tmp_path)).splits
    assert splits["subject"] == ()
    assert len(splits["slice"]) == 1


def test_a_changed_byte_is_noticed(location: Path) -> None:
    """A bit that flips anywhere in a shard is an error that names it, or changes nothing that is read from it."""
    shard = location / "slices" / "part-00001.parquet"
    whole, original = shard.read_bytes(), open_data_set(str(location))
    right, index = original.read_row_group(1), original.index
    noticed = 0
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        content = bytearray(whole)
        content[place] ^= 0x10
        shard.write_bytes(content)
        data = open_data_set(str(location))
        with suppress(StoreError):
            assert np.array_equal(data.read_row_group(1).images, right.images)
            assert np.array_equal(data.index.tumour_pixels, index.tumour_pixels)
            continue
        noticed += 1
    assert noticed > 45
    shard.write_bytes(b"PAR1" + bytes(len(whole) - 4))
    with pytest.raises(StoreError, match=r"part-00001\.parquet in .* is damaged \(.*\): prepare it again"):
        data.read_row_group(1)
    assert len(data.read_row_group(0)) == 64


def test_another_shard_under_the_name_is_noticed(tmp_path: Path) -> None:
    """A shard of the same size from another data set is whole, and still not this one's."""
    write_data_set(tmp_path / "mine", volumes())
    write_data_set(tmp_path / "other", [volume(f"{name}x", 50 + n) for n, name in enumerate(NAMES)])
    foreign = (tmp_path / "other/slices/part-00000.parquet").read_bytes()
    mine = tmp_path / "mine/slices/part-00000.parquet"
    fields = json.loads((tmp_path / "mine/manifest.json").read_text())
    fields["shards"][0]["n_bytes"] = len(foreign)
    (tmp_path / "mine/manifest.json").write_text(json.dumps(fields))
    mine.write_bytes(foreign)
    data = open_data_set(str(tmp_path / "mine"))
    with pytest.raises(StoreError, match="row group 0 is not what was written"):
        data.read_row_group(0)
    with pytest.raises(StoreError, match="the index of the data set"):
        assert data.index


def test_a_truncated_or_missing_shard_is_noticed_at_once(location: Path) -> None:
    """Opening compares sizes, and says both."""
    shard = location / "slices" / "part-00002.parquet"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(StoreError, match=f"part-00002.parquet .* is {size - 7} bytes, expected {size}"):
        open_data_set(str(location))
    shard.unlink()
    with pytest.raises(StoreError, match="is not there"):
        open_data_set(str(location))


def test_a_manifest_is_needed(tmp_path: Path) -> None:
    """No manifest, no data set: the message says how to make one."""
    for given in (tmp_path, tmp_path / "missing", f"file://{tmp_path}"):
        with pytest.raises(UsageError, match=r"is no data set .* 'vaeseg-batch prepare'"):
            open_data_set(str(given))
    with pytest.raises(UsageError, match="no URL"):
        open_data_set("gopher://there")


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("format_version", 2, UsageError, "format 2, this version reads up to 1; update vaeseg"),
        ("format_version", None, StoreError, "no format_version"),
        ("bits", 16, StoreError, "its digest is"),
        ("bits", 12, StoreError, "impossible data set"),
        ("organ", 3, StoreError, "its digest is"),
        ("subjects", [], StoreError, "its digest is"),
        ("shards", None, StoreError, "missing or of another kind"),
        ("preprocessing", {"image_size": "x"}, StoreError, "image_size cannot be"),
    ],
)
def test_a_changed_manifest_is_noticed(
    location: Path, field: str, value: object, error: type[Exception], message: str
) -> None:
    """Each field that decides what the pixels mean is covered by the digest; a newer format says so."""
    path = location / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(error, match=message):
        open_data_set(str(location))


def test_a_broken_manifest_or_splits_file_is_one_clear_error(location: Path) -> None:
    """Not JSON, or a split that names a stranger."""
    (location / "splits_final.json").write_text('[{"train": ["nobody"], "val": []}]')
    with pytest.raises(StoreError, match=r"splits_final\.json .* nobody is in a split and not in the data set"):
        assert open_data_set(str(location)).splits
    (location / "splits_final.json").unlink()
    with pytest.raises(StoreError, match=r"has no splits_final\.json"):
        assert open_data_set(str(location)).splits
    (location / "manifest.json").write_text('{"format_version": 1')
    with pytest.raises(StoreError, match="is damaged"):
        open_data_set(str(location))


def test_a_url_is_a_place_too(tmp_path: Path) -> None:
    """What a file URL writes, a path reads, and the other way round."""
    written = write_data_set(f"file://{tmp_path}/set", volumes())
    data = open_data_set(f"file://{tmp_path}/set")
    assert data.manifest.digest == open_data_set(str(tmp_path / "set")).manifest.digest == written.digest
    assert open_data_set(data.location).read(np.array([1])).images.shape == (1, SIZE, SIZE)


def test_a_data_set_in_an_object_store_is_the_same(bucket: RemotePath, tmp_path: Path) -> None:
    """Digest, splits and pixels are those of a directory; a shard that is missing is noticed when it is opened."""
    here = write_data_set(str(tmp_path / "set"), volumes())
    there = write_data_set(str(bucket / "set"), volumes())
    data, local = open_data_set(str(bucket / "set")), open_data_set(str(tmp_path / "set"))
    assert data.manifest.digest == there.digest == here.digest
    assert data.splits["subject"][0].dev.tolist() == local.splits["subject"][0].dev.tolist()
    assert (data.read(np.arange(9)).images == local.read(np.arange(9)).images).all()
    matches(bucket / "set" / "slices", "*.parquet")[0].unlink()
    with pytest.raises(StoreError, match="expected"):
        open_data_set(str(bucket / "set"))


def test_location_does_not_depend_on_the_working_directory(
    location: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative path that is opened again elsewhere, as in a worker process, is the same data set."""
    monkeypatch.chdir(location.parent)
    data = open_data_set(location.name)
    monkeypatch.chdir(tmp_path.parent)
    assert open_data_set(data.location).manifest.digest == data.manifest.digest


def test_other_programs_can_read_it(location: Path) -> None:
    """The shards are plain Parquet, as docs/data-sets.md describes them."""
    row = duckdb.sql(
        f"select count(*), sum(tumour_pixels), min(octet_length(image)), min(octet_length(label)), max(spacing_i_mm) "
        f"from '{location}/slices/*.parquet'"
    ).fetchall()[0]
    data = open_data_set(str(location))
    assert row == (len(data), data.index.tumour_pixels.sum(), SIZE * SIZE, SIZE * 2, 0.5)


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file and the cause; no manifest says that there is a data set."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vaeseg.durable.write_atomically", full)
    refused = r"slices/part-00000\.parquet of .* cannot be written: No space left on device"
    with pytest.raises(StoreError, match=refused):
        write_data_set(tmp_path / "set", volumes())
    assert not (tmp_path / "set/manifest.json").exists()


def test_clear_removes_what_is_ours_and_nothing_else(location: Path) -> None:
    """Shards, a part that was being written, splits and manifest go; a stranger's file stays."""
    (location / "slices/.part-0123456789abcdef").touch()
    (location / "slices/mine.parquet").touch()
    clear(locate(str(location)))
    assert [str(path.relative_to(location)) for path in location.rglob("*")] == ["slices", "slices/mine.parquet"]


def test_a_link_to_nothing_hides_no_data_set(location: Path) -> None:
    """What is beside it is listed, and so is the link, which is a stranger's."""
    before = locate(str(location)).sizes()
    (location / "dangling").symlink_to(location / "nothing")
    assert locate(str(location)).sizes() == before | {"dangling": 0}
    assert locate(str(location / "nothing")).sizes() == {}


def test_volumes_of_a_subject_are_counted_together(tmp_path: Path) -> None:
    """Two series of a patient are one subject with the tokens of both; a patient that comes again later is our bug."""
    first, second = volume("a", 5), replace(volume("a", 7), series="another", tokens=("more",))
    write_data_set(tmp_path, [first, second, volume("b")])
    data = open_data_set(str(tmp_path))
    assert data.index.subjects == ("a", "b")
    assert data.index.tokens[0] == ("more", "token-a")
    assert data.index.slice_of_subject.tolist() == [*range(12), *range(3)]
    assert data.index.series == ("a-series", "another", "b-series")
    assert data.index.series_of_slice.tolist() == [0] * 5 + [1] * 7 + [2] * 3
    assert data.index.slice_of_series.tolist() == [*range(5), *range(7), *range(3)]
    with pytest.raises(ValueError, match="follow each other"):
        write_data_set(tmp_path, [first, volume("b"), second])
