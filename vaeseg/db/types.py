"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

BigKey = BigInteger().with_variant(Integer, "sqlite")
"""64-bit row number; SQLite numbers rows by itself only where the type is INTEGER."""

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""JSON value; Python None is SQL NULL."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: with time zone on PostgreSQL, as UTC text on SQLite; always aware and UTC in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; SQLite keeps no zone, so that only UTC may reach it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"moment {value} has no time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """To an aware UTC moment, whatever zone the server speaks."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text that any database takes: what files say may hold NUL or undecodable bytes, which are replaced by "?"."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what PostgreSQL or UTF-8 cannot hold."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")


class PathText(TypeDecorator[str]):
    """A path, kept exactly although file names are bytes.

    Undecodable bytes (surrogates in Python) are written as ``\\udcXX`` and a backslash as two, so that no two paths
    become one.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape."""
        if value is None or (value.isascii() and "\\" not in value):
            return value
        return value.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode("utf-8")

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Undo the escape."""
        if value is None or "\\" not in value:
            return value if value is None else str(value)
        halves = str(value).split("\\\\")
        return "\\".join(_unescape(half) for half in halves)


def _unescape(text: str) -> str:
    first, *rest = text.split("\\u")
    return first + "".join(chr(int(part[:4], 16)) + part[4:] for part in rest)
