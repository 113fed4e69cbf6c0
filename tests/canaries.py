"""Values that name a patient, planted wherever a hospital has them, and the search for them in any form."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image
from pydicom.dataset import Dataset

ELEMENTS = {
    "PatientName": "CANARYNÄME^Jane",
    "PatientID": "CANARYID77",
    "PatientBirthDate": "19010203",
    "OtherPatientIDs": "CANARYOTHERID",
    "PatientAddress": "CANARYSTREET",
    "PatientComments": "CANARYCOMMENT",
    "InstitutionName": "CANARYHOSPITAL",
    "ReferringPhysicianName": "CANARYDOCTOR",
    "OperatorsName": "CANARYOPERATOR",
    "AccessionNumber": "CANARYACCESSION",
    "StudyID": "CANARYSTUDYID",
    "StudyDescription": "CANARYSTUDYTEXT",
    "SeriesDescription": "CANARYSERIESTEXT",
    "ImageComments": "CANARYIMAGETEXT",
    "ProtocolName": "CANARYPROTOCOL",
}
PRIVATE, SEQUENCE, NIFTI, PATH = "CANARYPRIVATE", "CANARYSEQUENCE", "CANARYNIFTI", "CANARYFOLDER"
WORDS = (*ELEMENTS.values(), PRIVATE, SEQUENCE, NIFTI, PATH)


def plant(dataset: Dataset) -> None:
    """In plain elements, in a sequence and in private ones."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    for keyword, value in ELEMENTS.items():
        setattr(dataset, keyword, value)
    item = Dataset()
    item.PatientID = SEQUENCE
    dataset.OtherPatientIDsSequence = [item]
    dataset.private_block(0x0009, "CANARYPRIVATE", create=True).add_new(0x01, "LO", PRIVATE)


def found_in(data: bytes, words: tuple[str, ...] = WORDS) -> list[str]:
    """Which values are in some bytes, in whatever encoding."""
    return [word for word in words if any(form in data for form in _FORMS[word])]


def readable_content(path: Path) -> bytes:
    """What a file says, with what its format hides: compressed data, tables, text chunks of pictures."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        return data + gzip.decompress(data)
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        return data + repr((file.read().to_pylist(), file.schema_arrow.metadata, file.metadata.metadata)).encode()
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return data + repr(picture.info).encode()
    return data


def _forms(word: str) -> Iterator[bytes]:
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
        yield word.encode(encoding)
    yield json.dumps(word)[1:-1].encode()
    yield ascii(word)[1:-1].encode()
    for shift in range(3):  # a value in the middle of something that was encoded whole
        encoded = base64.b64encode(b"\0" * shift + word.encode()).rstrip(b"=")
        yield encoded[(8 * shift + 5) // 6 : -1]


_FORMS: dict[str, tuple[bytes, ...]] = {word: tuple(_forms(word)) for word in WORDS}


def rows_as_text(rows: list[tuple[Any, ...]]) -> bytes:
    """Values of a database."""
    return "\n".join(str(value) for row in rows for value in row if value is not None).encode()
