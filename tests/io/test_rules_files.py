"""Files of rules, and headers asked by them."""

from __future__ import annotations

import errno
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from factories import CANARIES, write_series
from pydicom.uid import DeflatedExplicitVRLittleEndian

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError, UsageError
from vaeseg.io.dicom import VALUE_CHARACTERS, quiet_pydicom, read_values
from vaeseg.io.rules import HeaderAnswer, answer_without_header, ask_header, read_rules
from vaeseg.rules.parsing import parse_rules
from vaeseg.rules.series_rules import Exclusion

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples/chest.toml"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    """The example of the documentation in both; JSON is known by its brace."""
    values = read_rules(EXAMPLE)
    assert read_rules(written(tmp_path / "rules", "\ufeff" + json.dumps(values))) == values


def test_the_documentation_shows_a_part_of_the_example() -> None:
    """Key by key, and condition by condition, the same."""
    (block,) = re.findall(r"^```toml\n(.*?)^```", (DOCS / "archives.md").read_text(), re.MULTILINE | re.DOTALL)
    shown, example = tomllib.loads(block), read_rules(EXAMPLE)
    for kind in ("require", "leave_out"):
        assert all(condition in example[kind] for condition in shown.pop(kind))
    assert shown.items() <= example.items()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no rule in it"),
        ("min_slices = ", "Invalid value"),
        ('{"min_slices": }', "Expecting value"),
        ("[" * 60_000, "cannot be followed"),
        ('{"a":' * 10_000, "cannot be followed"),
        (b"\xff", "decode"),
        ("#" * 70_000, "longer than 65536 bytes"),
        ("min_slices = 2020-01-01", "is no whole number"),
        ('require = [{ keyword = "BodyPart", equals = "CHEST" }]', "'BodyPart' is no DICOM keyword"),
        ('require = [{ keyword = "PixelData", equals = "1" }]', "PixelData holds no plain values"),
        ('require = [{ keyword = "ReferencedStudySequence", equals = "1" }]', "holds no plain values"),
    ],
)
def test_what_cannot_be_followed_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    """With the file's name."""
    path = written(tmp_path / "rules.toml", content)
    with pytest.raises(UsageError, match=r"rules\.toml") as raised:
        read_rules(path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """And so is a directory."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="cannot read the rules"):
            read_rules(path)


def ask(root: Path, values: dict[str, Any]) -> HeaderAnswer:
    with quiet_pydicom():
        return ask_header(root, "000.dcm", parse_rules(values), ReadingConfig())


def test_the_example_takes_the_series_that_it_is_about(tmp_path: Path) -> None:
    """And names the rule for others."""
    chest = {"BodyPartExamined": "CHEST", "KVP": "120", "ConvolutionKernel": "LUNG", "SeriesDescription": "Lung 1.25"}
    write_series(tmp_path, **chest)
    rules = read_rules(EXAMPLE)
    assert ask(tmp_path, rules) == HeaderAnswer(broken=None, kernels=("LUNG",))
    for change, rule in (
        ({"BodyPartExamined": "ABDOMEN"}, "chest"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "not_derived"),
        ({"KVP": "70"}, "tube_voltage"),
        ({"KVP": None}, "tube_voltage"),
        ({"SeriesDescription": "Lung MIP 8 mm"}, "projections"),
    ):
        write_series(tmp_path, **(chest | change))
        broken = ask(tmp_path, rules).broken
        assert broken is not None
        assert broken.rule == rule


def test_values_of_every_kind_are_text(tmp_path: Path) -> None:
    """Several, of the file meta, cut, missing and empty ones."""
    write_series(tmp_path, ImageType=["A", "B"], SeriesDescription="d" * 2000, ConvolutionKernel="", KVP="120.0")
    keywords = ["ImageType", "SliceThickness", "TransferSyntaxUID", "SeriesDescription", "ConvolutionKernel", "Rows"]
    with quiet_pydicom():
        values = read_values(tmp_path, "000.dcm", [*keywords, "BodyPartExamined"], ReadingConfig())
    assert values == {
        "ImageType": ("A", "B"),
        "SliceThickness": ("5.0",),
        "TransferSyntaxUID": ("1.2.840.10008.1.2.1",),
        "SeriesDescription": ("d" * VALUE_CHARACTERS,),
        "ConvolutionKernel": (),
        "Rows": ("12",),
        "BodyPartExamined": (),
    }


def test_an_element_of_another_kind_has_no_value(tmp_path: Path) -> None:
    """Bulk data or a sequence where text belongs: neither is text."""
    for kind, content in (("OB", b"xx"), ("SQ", [pydicom.Dataset()])):

        def replaced(dataset: pydicom.Dataset, kind: str = kind, content: object = content) -> None:
            dataset.add_new("ConvolutionKernel", kind, content)

        write_series(tmp_path, encode=replaced)
        with quiet_pydicom():
            values = read_values(tmp_path, "000.dcm", ["ConvolutionKernel"], ReadingConfig())
        assert values == {"ConvolutionKernel": ()}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), "unreadable_file"),
        (PermissionError(errno.EACCES, "Permission denied"), "unreadable_file"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "changed_while_reading"),
        (OSError(errno.EINVAL, "Invalid argument"), "unreadable_instance"),
    ],
)
def test_an_error_of_the_disk_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    """EINVAL alone comes of a damaged header, which points to a place before the file."""
    write_series(tmp_path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("vaeseg.io.dicom.read_elements", fail)
    with pytest.raises(ReadingError, match=f"^{reason}:"):
        ask(tmp_path, {"require": [{"keyword": "Modality", "equals": "CT"}]})


def test_an_answer_names_no_patient(tmp_path: Path) -> None:
    """Whatever is asked."""
    write_series(tmp_path)
    for keyword, value in CANARIES.items():
        for kind, test in (("leave_out", {"equals": value}), ("require", {"equals": "x"})):
            answer = ask(tmp_path, {kind: [{"keyword": keyword, **test}]})
            assert answer.broken is not None
            assert "CANARY" not in repr(answer)
            assert value not in repr(answer)


def test_a_nifti_volume_has_no_elements() -> None:
    """What has to be there leaves it out."""
    rules = parse_rules({"require": [{"keyword": "Modality", "equals": "CT"}]})
    detail = "Modality has no value in the header"
    assert answer_without_header(rules).broken == Exclusion(rule="Modality", detail=detail)


@pytest.mark.parametrize("damage", ["gone", "link", "empty", "inflated"])
def test_a_header_that_cannot_be_read_is_a_reason(tmp_path: Path, damage: str) -> None:
    """As for any other reading; a link is not followed."""
    path = write_series(tmp_path, TransferSyntaxUID=DeflatedExplicitVRLittleEndian).paths[0]
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "link":
            path.symlink_to("001.dcm")
        case "empty":
            path.touch()
        case "inflated":
            path.write_bytes(content[:-300] + b"\xff" * 300)
    with pytest.raises(ReadingError) as raised:
        ask(tmp_path, {"require": [{"keyword": "Modality", "equals": "CT"}]})
    reasons = {
        "gone": "changed_while_reading",
        "link": "link_not_followed",
        "empty": "empty_file",
        "inflated": "unreadable_instance",
    }
    assert raised.value.reason == reasons[damage]
