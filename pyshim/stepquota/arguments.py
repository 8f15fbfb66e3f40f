"""How Python values become arguments of the SQL functions.

Each function here makes one :class:`Argument`; it is converted when the statement is put together,
where the parameter's name is known. What cannot be sent raises a :class:`TypeError` or
:class:`ValueError` that names the parameter, before anything reaches the database, so that the
caller's transaction survives. Everything else is left to SQL: None is sent as NULL and an empty
text as an empty text, and SQL refuses them where they make no sense.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar
from uuid import UUID

__all__ = [
    "Argument",
    "Key",
    "boolean",
    "convert_key",
    "int4",
    "int4_array",
    "int8",
    "int8_array",
    "interval",
    "jsonb",
    "key",
    "text",
    "text_array",
    "timestamptz",
    "uuid",
    "uuid_array",
]

Element = TypeVar("Element")

Key: TypeAlias = str | int | UUID
"""A tenant or a run id. In the database all are text: 42 is '42', a UUID in lower case."""


class Argument(NamedTuple):
    """A value on its way to the database."""

    sql_type: str
    convert: Callable[[str, Any], object]
    value: object


def key(value: Key | None) -> Argument:
    """A tenant or a run id."""
    return Argument("text", convert_key, value)


def text(value: str | None) -> Argument:
    """Any other text."""
    return Argument("text", _convert_text, value)


def int4(value: int | None) -> Argument:
    """A number of 32 bits."""
    return Argument("int4", _convert_int4, value)


def int8(value: int | None) -> Argument:
    """A number of 64 bits."""
    return Argument("int8", _convert_int8, value)


def boolean(value: bool | None) -> Argument:
    """True or False."""
    return Argument("bool", _convert_bool, value)


def text_array(value: Sequence[str] | None) -> Argument:
    """Several texts. A str is refused, although Python counts it as a sequence of texts."""
    return Argument("text[]", partial(_convert_array, _convert_text), value)


def int4_array(value: Sequence[int] | None) -> Argument:
    """Several numbers of 32 bits."""
    return Argument("int4[]", partial(_convert_array, _convert_int4), value)


def int8_array(value: Sequence[int] | None) -> Argument:
    """Several numbers of 64 bits."""
    return Argument("int8[]", partial(_write_array, _convert_int8), value)


def uuid(value: UUID | str | None) -> Argument:
    """The id of a wait, a resumption or a batch."""
    return Argument("uuid", _convert_uuid, value)


def uuid_array(value: Sequence[UUID] | None) -> Argument:
    """Several ids."""
    return Argument("uuid[]", partial(_write_array, _convert_uuid), value)


def timestamptz(value: datetime | None) -> Argument:
    """A moment: a datetime with a time zone."""
    return Argument("timestamptz", _convert_timestamptz, value)


def interval(value: timedelta | None) -> Argument:
    """A span of time."""
    return Argument("interval", _convert_interval, value)


def jsonb(value: object) -> Argument:
    """Anything that the json module can write. None is SQL NULL, not JSON null."""
    return Argument("jsonb", _convert_jsonb, value)


def convert_key(parameter: str, value: object) -> str | None:
    """The text that stands for a tenant or a run id in the database.

    Raises:
        TypeError: it is not a str, int or UUID. A bool is refused although Python counts it as int.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    _refuse_type(parameter, value, "str, int or UUID")


def _convert_text(parameter: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _plain(value)
    _refuse_type(parameter, value, "str")


def _convert_int4(parameter: str, value: object) -> int | None:
    return _convert_int(parameter, value, 32)


def _convert_int8(parameter: str, value: object) -> int | None:
    return _convert_int(parameter, value, 64)


def _convert_int(parameter: str, value: object, bits: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse_type(parameter, value, "int")
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise ValueError(f"{parameter} does not fit in {bits} bits: {value}")
    return int(value)


def _convert_bool(parameter: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    _refuse_type(parameter, value, "bool")


def _convert_array(
    convert: Callable[[str, object], Element | None], parameter: str, value: object
) -> list[Element | None] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        _refuse_type(parameter, value, "a sequence")
    return [convert(f"{parameter}[{i}]", element) for i, element in enumerate(value)]


def _write_array(
    convert: Callable[[str, object], object], parameter: str, value: object
) -> str | None:
    # As PostgreSQL writes it: nothing to be quoted is in these, and psycopg's own conversion of
    # lists takes as long as all the rest of a call.
    elements = _convert_array(convert, parameter, value)
    if elements is None:
        return None
    return f"{{{','.join('null' if each is None else str(each) for each in elements)}}}"


def _convert_uuid(parameter: str, value: object) -> UUID | None:
    if value is None or isinstance(value, UUID):
        return value
    if not isinstance(value, str):
        _refuse_type(parameter, value, "UUID or str")
    try:
        return UUID(_plain(value))
    except ValueError:
        raise ValueError(f"{parameter} is not a UUID: {value!r}") from None


def _convert_timestamptz(parameter: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        _refuse_type(parameter, value, "datetime")
    if value.utcoffset() is None:
        raise ValueError(
            f"{parameter} has no time zone: {value!r}; pass an aware datetime, "
            "for instance with tzinfo=datetime.timezone.utc"
        )
    return value


def _convert_interval(parameter: str, value: object) -> timedelta | None:
    if value is None or isinstance(value, timedelta):
        return value
    _refuse_type(parameter, value, "timedelta")


def _convert_jsonb(parameter: str, value: object) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"{parameter} cannot be written as JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{parameter} cannot be written as JSON: {error}") from None


def _plain(value: str) -> str:
    # An enumeration of strings is a str too, and str() of it can be its name instead of its value.
    return str.__str__(value)


def _refuse_type(parameter: str, value: object, expected: str) -> NoReturn:
    raise TypeError(f"{parameter} must be {expected}, not {type(value).__name__}: {value!r}")
