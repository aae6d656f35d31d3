"""Validation of untrusted JSON against the types of a dataclass.

A dataclass with `__pydantic_config__ = STRICT` is a schema: unknown and missing names, values of another
type, NaN and infinities are errors. A ValueError of its `__post_init__` is reported with the field.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import InputError

if TYPE_CHECKING:  # pydantic is imported where something is parsed, so that commands start quickly
    from pydantic import ConfigDict, TypeAdapter

Schema = TypeVar("Schema")

STRICT: "ConfigDict" = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
SHOWN = 3  # faults named in an error
LONGEST = 80  # characters of a name or message shown
SURROGATES = re.compile("[\ud800-\udfff]")


def read_schema(schema: type[Schema], path: Path) -> Schema:
    """Read a dataclass from a JSON file. Raises InputError naming the file and its faults."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return parse_schema(schema, data, str(path))


def parse_schema(schema: type[Schema], data: bytes | str, where: str) -> Schema:
    """Parse a JSON document into a dataclass. Raises InputError that begins with `where`."""
    from pydantic import ValidationError

    try:
        # typeshed does not treat type variables of classes as hashable
        return _adapter(schema).validate_json(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InputError(f"{where}: {_faults(error)}") from None


def storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-like values for a document of a schema: names of files that are not UTF-8, which strict readers of
    JSON refuse, are written with escapes, `\\udce9` for a byte."""
    text = json.dumps(values, ensure_ascii=False)
    stored: dict[str, Any] = json.loads(SURROGATES.sub(lambda one: rf"\\u{ord(one[0]):04x}", text))
    return stored


def check_values(schema: type[Schema], values: Mapping[str, Any], where: str) -> Schema:
    """Validate JSON-like values from another kind of file, such as a pickle, as a dataclass. Raises
    InputError that begins with `where`."""
    try:
        data = json.dumps(values)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: {str(error)[:LONGEST]}") from None
    return parse_schema(schema, data, where)


@lru_cache(maxsize=64)
def _adapter(schema: type[Schema]) -> "TypeAdapter[Schema]":
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _faults(error: Any) -> str:
    """The first faults of a ValidationError, as "field: message"."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [
        f"{'.'.join(map(str, fault['loc']))[:LONGEST]}: {fault['msg'].removeprefix('Value error, ')}"
        if fault["loc"]
        else fault["msg"].removeprefix("Value error, ")
        for fault in faults[:SHOWN]
    ]
    more = f" and {len(faults) - SHOWN} more faults" if len(faults) > SHOWN else ""
    return "; ".join(shown) + more
