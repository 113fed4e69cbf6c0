"""`vaeseg-batch subject-key`: the pseudonym of a patient, for whoever holds the key of the store."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import json_option, opened_for_query, store_options
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@store_options
@json_option
def command(store: AnyPath, db: str | None, as_json: bool) -> None:
    """Print the key under which a store knows a patient.

    The patient id is asked for, or read from the first line of standard input, and its issuer (IssuerOfPatientID, often
    empty) from the second: never from the command line, which everybody on the machine can read. That a key was asked
    for is recorded, and whose is not.

    Exit codes: 0 ok, 1 the key of the store cannot be read, 2 no patient id, or no such store.
    """
    from vaeseg.db.events import record_shown
    from vaeseg.io.dicom import SubjectKeyer
    from vaeseg.io.secret import existing_subject_secret

    with opened_for_query(store, db) as database:
        keyer = SubjectKeyer(existing_subject_secret(store))
        key = keyer.key(*(_asked() if sys.stdin.isatty() else _piped()))
        if key is None:
            raise UsageError("no patient id: type it when asked, or give it as the first line of standard input")
        record_shown(database, "subject_key_shown", None, {})
    print(json.dumps({"subject_key": key}) if as_json else key)


def _asked() -> tuple[str, str]:
    patient_id: str = click.prompt("patient id (not shown)", hide_input=True, err=True)
    issuer: str = click.prompt("issuer of it (empty if none)", default="", show_default=False, err=True)
    return patient_id, issuer


def _piped() -> tuple[str, str]:
    lines = [*sys.stdin.read().splitlines(), "", ""]
    patient_id, issuer = lines[:2]
    if any(lines[2:]):
        raise UsageError("more than two lines on standard input: a patient id, and its issuer if it has one")
    return patient_id, issuer
