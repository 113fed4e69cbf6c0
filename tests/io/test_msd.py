"""The list of an MSD data set, which may come from anyone."""

import json
from pathlib import Path

import pytest

from vaeseg.errors import UsageError
from vaeseg.io.msd import MsdItem, read_label_names, read_msd


def write(root: Path, content: object) -> Path:
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_training_and_test_items_are_listed_in_order(tmp_path: Path) -> None:
    """Labelled items first, then images without labels; names are file names without suffixes."""
    write(
        tmp_path,
        {
            "training": [
                {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
                {"image": "imagesTr/a.v2.nii"},
            ],
            "test": ["./imagesTs/c.nii.gz"],
        },
    )
    assert read_msd(tmp_path) == [
        MsdItem(name="b", image=tmp_path / "imagesTr/b.nii.gz", label=tmp_path / "labelsTr/b.nii.gz"),
        MsdItem(name="a.v2", image=tmp_path / "imagesTr/a.v2.nii", label=None),
        MsdItem(name="c", image=tmp_path / "imagesTs/c.nii.gz", label=None),
    ]


@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/passwd", "imagesTr/../../x.nii", "a\0b"])
def test_paths_stay_inside_the_directory(tmp_path: Path, path: str) -> None:
    """An entry that leads out of the directory is refused, as image and as label."""
    for entry in (path, {"image": path, "label": "l.nii"}, {"image": "i.nii", "label": path}):
        with pytest.raises(UsageError, match=r"outside|impossible"):
            read_msd(write(tmp_path, {"training": [entry]}))


def test_links_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    """A link that points elsewhere is followed no further than its target's place."""
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.nii.gz").touch()
    (root / "a.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    with pytest.raises(UsageError, match=r"link that leads outside .* copy the file"):
        read_msd(write(root, {"training": ["a.nii.gz"]}))


def test_links_inside_the_directory_keep_their_names(tmp_path: Path) -> None:
    """As git-annex lays a data set out: the names are those of the links, whatever the contents are called."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "MD5-s1--0cc1").touch()
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).symlink_to("objects/MD5-s1--0cc1")
    items = read_msd(write(tmp_path, {"training": ["a.nii.gz", "b.nii.gz"]}))
    assert [(item.name, item.image) for item in items] == [("a", tmp_path / "a.nii.gz"), ("b", tmp_path / "b.nii.gz")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no.* JSON object"),
        ('{"training": {}}', "no list"),
        ('{"training": [3]}', "expected an image"),
        ('{"training": [{"image": 3, "label": "x"}]}', "expected an image"),
        ('{"training": []}', "no images"),
        ('{"training": ["a.nii", "sub/a.nii.gz"]}', "two images of the name a"),
    ],
)
def test_lists_that_make_no_sense_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """One sentence that says what is wrong."""
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_msd(tmp_path)


def test_missing_list_is_refused(tmp_path: Path) -> None:
    """A directory without dataset.json, or none at all, is no data set."""
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="is this an MSD data set"):
            read_msd(root)


def test_oversized_list_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is bounded before it is parsed."""
    monkeypatch.setattr("vaeseg.io.msd.MAX_LIST_BYTES", 10)
    with pytest.raises(UsageError, match="at most 10 bytes"):
        read_msd(write(tmp_path, {"training": ["a.nii.gz"]}))


@pytest.mark.parametrize("labels", [{"0": "background", "1": "cancer"}, {"background": 0, "cancer": 1, "all": [1, 2]}])
def test_labels_are_read_either_way_round(tmp_path: Path, labels: object) -> None:
    """MSD maps values to names, nnU-Net names to values; its regions of several values are no label."""
    assert read_label_names(write(tmp_path, {"labels": labels})) == {0: "background", 1: "cancer"}


def test_a_label_value_has_a_bound(tmp_path: Path) -> None:
    """No voxel holds a number of thousands of digits, which Python refuses to read."""
    labels = {"9" * 5000: "far", "9" * 10: "near", "9" * 9: "last", "one": 1}
    assert read_label_names(write(tmp_path, {"labels": labels})) == {999_999_999: "last", 1: "one"}


def test_names_can_be_printed(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and letters that turn text round, are escaped; the file is found all the same."""
    image = tmp_path / "pati\udccent\u202e$é.nii.gz"
    (only,) = read_msd(write(tmp_path, {"training": [image.name]}))
    assert only == MsdItem(name="pati\\udccent\\u202e$é", image=image, label=None)


def test_labels_may_be_missing(tmp_path: Path) -> None:
    """A list without them is no error; one that is no object is."""
    assert read_label_names(write(tmp_path, {"training": []})) is None
    with pytest.raises(UsageError, match="labels in dataset"):
        read_label_names(write(tmp_path, {"labels": ["cancer"]}))
