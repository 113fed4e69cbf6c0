"""Which database the environment names: a URL, or a file that holds one, so that a password need not be a variable."""

from __future__ import annotations

import os
from pathlib import Path

from vaeseg.errors import UsageError

URL_VARIABLE = "VAESEG_DB"
FILE_VARIABLE = "VAESEG_DB_FILE"


def url_from_environment() -> str | None:
    """The URL in $VAESEG_DB, or else in the file that $VAESEG_DB_FILE names; None where neither is set.

    An empty variable is as one that is not set. The URL is the whole file but for white space around it.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    return os.environ.get(URL_VARIABLE) or _url_in_file(os.environ.get(FILE_VARIABLE))


def _url_in_file(name: str | None) -> str | None:
    if not name:
        return None
    try:
        url = Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"the file of ${FILE_VARIABLE} cannot be read: {reason}") from None
    if not url:
        raise UsageError(f"the file of ${FILE_VARIABLE} is empty")
    return url
