"""Walking a directory: every file found ends up in a series, or is refused with a reason."""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_bytes

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.io.ahead import map_files
from vaeseg.io.dicom import SubjectKeyer, quiet_pydicom, read_header
from vaeseg.io.gzipped import start_of
from vaeseg.io.headers import InstanceHeader, refusal_of_geometry, refusal_of_object, refusal_of_pixels
from vaeseg.io.listing import FoundFile, found_file, walk
from vaeseg.io.manifest import SeriesManifest, SliceFile, matrix_as_tuples
from vaeseg.io.nifti_header import HEADER_BYTES, is_nifti, read_nifti_header
from vaeseg.io.part10 import is_dicom
from vaeseg.io.series import SeriesVerdict, assemble_series, derived_uid, with_unique_keys
from vaeseg.paths import AnyPath, sha256_of
from vaeseg.records import FileCount, Reason, SeriesRef, Warn
from vaeseg.remote import RemotePath

NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DICOM_STARTS = (b"\x02\x00", b"\x08\x00")
"""A data set without preamble begins with group 0002 or 0008, little endian."""
DAMAGE = frozenset(
    {
        Reason.EMPTY_FILE,
        Reason.UNREADABLE_FILE,
        Reason.UNREADABLE_INSTANCE,
        Reason.MISSING_PIXEL_DATA,
        Reason.MISSING_GEOMETRY,
    }
)
"""Reasons of files that may have been a slice of any series."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file says of itself: a DICOM instance, a NIfTI volume, or why it is neither."""

    file: FoundFile
    header: InstanceHeader | None = None
    """Of a DICOM instance, which is judged with the others of its series."""
    volume: SeriesVerdict | None = None
    """Of a NIfTI file, which is a series by itself."""
    reason: Reason | None = None
    """Why it belongs nowhere."""
    detail: str = ""

    @property
    def is_damaged(self) -> bool:
        """Whether it may have been a slice of any series: a file cut within its series UID names another series."""
        if self.header is not None:
            refusals = (refusal(self.header) for refusal in (refusal_of_object, refusal_of_geometry, refusal_of_pixels))
            first = next((refusal for refusal in refusals if refusal), None)
            return first is not None and first[0] in DAMAGE
        if self.reason == Reason.NOT_AN_IMAGE:
            return self.file.path.lower().endswith(DICOM_SUFFIXES)
        return self.reason in DAMAGE


@dataclass(frozen=True, kw_only=True)
class ArchiveScan:
    """All that was found under a root, judged by headers alone."""

    root: AnyPath
    files: tuple[FoundFile, ...]
    verdicts: tuple[SeriesVerdict, ...]
    """Readable series first; each file is in exactly one verdict."""

    @property
    def file_count(self) -> FileCount:
        """found = in series + refused."""
        by_reason: dict[str, int] = defaultdict(int)
        for verdict in self.verdicts:
            if verdict.reason is not None:
                by_reason[verdict.reason] += len(verdict.files)
        in_series = sum(len(verdict.files) for verdict in self.verdicts if verdict.readable)
        return FileCount(
            found=len(self.files),
            in_series=in_series,
            refused=sum(by_reason.values()),
            refused_by_reason=dict(sorted(by_reason.items())),
        )


def scan_archive(
    path: AnyPath, config: ReadingConfig, keyer: SubjectKeyer | None = None, exclude: Sequence[AnyPath] = ()
) -> ArchiveScan:
    """List a directory (or one file), read headers, group them into series and judge each.

    Args:
        path: a directory, or a single file; if it is itself a link it is followed.
        config: bounds.
        keyer: makes subject keys; None for keys of this scan alone, which tell patients apart and are nobody's.
        exclude: directories not to enter, such as a store inside the archive.

    Raises:
        OSError: the directory itself cannot be listed.
    """
    path = path.resolve(strict=True)
    keyer = keyer or SubjectKeyer(token_bytes())
    root = path if path.is_dir() else path.parent
    if path.is_dir():
        found = [file for listing in walk(root, exclude=[e.resolve() for e in exclude]) for file in listing.files]
    else:
        found = list(found_file(root, path))
    with quiet_pydicom():
        records = read_files(root, found, config, keyer)
        verdicts = assemble_series(root, [record.header for record in records if record.header], config)
    verdicts += [record.volume for record in records if record.volume]
    verdicts += _refused_files(record for record in records if record.reason)
    verdicts = with_unique_keys(_warned_of_damage(verdicts, records))
    return ArchiveScan(root=root, files=tuple(found), verdicts=tuple(verdicts))


def read_files(
    root: AnyPath, files: Sequence[FoundFile], config: ReadingConfig, keyer: SubjectKeyer | None
) -> list[FileRecord]:
    """`read_file` of each."""
    return map_files(lambda file: read_file(root, file, config, keyer), files, root)


def read_file(root: AnyPath, file: FoundFile, config: ReadingConfig, keyer: SubjectKeyer | None) -> FileRecord:
    """Read the header of one file; call it within `quiet_pydicom`.

    Args:
        root: absolute.
        file: from `listing`.
        config: bounds.
        keyer: makes the subject key; None leaves it out.
    """
    try:
        return _recognised(root, file, config, keyer)
    except ReadingError as error:
        return FileRecord(file=file, reason=Reason(error.reason), detail=error.detail)


def _recognised(root: AnyPath, file: FoundFile, config: ReadingConfig, keyer: SubjectKeyer | None) -> FileRecord:
    place = root / file.path
    try:
        check_regular(place, file)
        with place.open("rb") as opened:
            start = start_of(opened, HEADER_BYTES)
            if is_dicom(start) or (start.startswith(DICOM_STARTS) and not _is_volume(start, file)):
                _check_dicom_size(file, config)
                return FileRecord(file=file, header=read_header(opened, place, file.path, keyer, config))
    except OSError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, f"cannot be opened ({type(error).__name__})") from error
    if _is_volume(start, file):
        return FileRecord(file=file, volume=_judge_nifti(root, file, config, keyer))
    raise ReadingError(Reason.NOT_AN_IMAGE, "neither DICOM nor NIfTI")


def _is_volume(start: bytes, file: FoundFile) -> bool:
    return is_nifti(start) or file.path.lower().endswith(NIFTI_SUFFIXES)


def check_regular(path: AnyPath, file: FoundFile) -> None:
    """Refuse what is no file with content, before it is opened.

    Raises:
        ReadingError: with what it is.
        OSError: it is gone, or out of reach.
    """
    mode = stat.S_IFREG
    if not isinstance(path, RemotePath):
        mode = path.lstat().st_mode
    elif file.path.endswith("/."):
        mode = stat.S_IFDIR
    if stat.S_ISLNK(mode):
        raise ReadingError(Reason.LINK_NOT_FOLLOWED, "a symbolic link; what it points to is read where it lies")
    if stat.S_ISDIR(mode):
        raise ReadingError(Reason.UNREADABLE_FILE, "a directory that cannot be listed")
    if not stat.S_ISREG(mode):
        raise ReadingError(Reason.NOT_A_REGULAR_FILE, "a device, pipe or socket")
    if file.size == 0:
        raise ReadingError(Reason.EMPTY_FILE, "0 bytes")


def _check_dicom_size(file: FoundFile, config: ReadingConfig) -> None:
    limit = config.max_header_bytes + 4 * config.max_voxels
    if file.size > limit:
        raise ReadingError(Reason.TOO_LARGE, f"a DICOM file of {file.size} bytes, allowed are {limit}")


def _warned_of_damage(verdicts: Sequence[SeriesVerdict], records: Sequence[FileRecord]) -> list[SeriesVerdict]:
    """Warn of volumes beside damaged files: a slice lost at either end of a stack leaves no gap."""
    damaged = {Path(record.file.path).parent for record in records if record.is_damaged}
    return [
        warned_of_damage(verdict)
        if verdict.modality and damaged.intersection(Path(file.path).parent for file in verdict.files)
        else verdict
        for verdict in verdicts
    ]


def warned_of_damage(verdict: SeriesVerdict) -> SeriesVerdict:
    """The verdict of a DICOM series, with a damaged file in a directory of its own."""
    if verdict.manifest is None:
        return verdict
    warnings = tuple(sorted({*verdict.warnings, Warn.INSTANCES_LEFT_OUT}))
    return replace(verdict, warnings=warnings, manifest=replace(verdict.manifest, warnings=warnings))


def _refused_files(records: Iterable[FileRecord]) -> list[SeriesVerdict]:
    """Files that belong to no series, gathered by what is wrong with them."""
    refused: dict[tuple[str, str], list[FoundFile]] = defaultdict(list)
    for record in records:
        refused[str(record.reason), record.detail].append(record.file)
    return [
        SeriesVerdict(
            series_key="",
            ref=None,
            modality=None,
            files=tuple(SliceFile(path=file.path, size=file.size) for file in files),
            fingerprint="",
            reason=reason,
            detail=detail,
        )
        for (reason, detail), files in sorted(refused.items())
    ]


def _judge_nifti(root: AnyPath, file: FoundFile, config: ReadingConfig, keyer: SubjectKeyer | None) -> SeriesVerdict:
    stem = file.path.removesuffix(".gz").removesuffix(".nii")
    ref = SeriesRef(
        series_instance_uid=derived_uid("nifti series", _escaped(stem)),
        study_instance_uid=derived_uid("nifti study", _escaped(stem)),
        subject_key=keyer.key(_escaped(stem), "file name") if keyer else None,
    )
    files = (SliceFile(path=file.path, size=file.size),)
    verdict = SeriesVerdict(
        series_key=ref.series_instance_uid,
        ref=ref,
        modality=None,
        files=files,
        fingerprint=_fingerprint(root / file.path),
    )
    try:
        header = read_nifti_header(root / file.path, config)
    except ReadingError as error:
        if error.reason == Reason.UNREADABLE_FILE:
            raise
        return replace(verdict, reason=error.reason, detail=error.detail)
    manifest = SeriesManifest(
        kind="nifti",
        series_key=verdict.series_key,
        ref=ref,
        files=files,
        shape=header.shape,
        lps_from_kji=matrix_as_tuples(header.geometry.lps_from_kji),
        warnings=header.warnings,
    )
    return replace(verdict, manifest=manifest, warnings=header.warnings)


def _fingerprint(path: AnyPath) -> str:
    """Of all bytes of a NIfTI file."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, f"cannot be read ({type(error).__name__})") from error


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
