"""Validation of JSON documents against dataclasses."""

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from core.errors import InputError
from core.files import write_json
from core.schema import STRICT, check_values, parse_schema, read_schema, storable


@dataclass(frozen=True)
class Inner:
    __pydantic_config__: ClassVar = STRICT
    name: str
    place: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Outer:
    __pydantic_config__: ClassVar = STRICT
    kind: Literal["a", "b"]
    count: int
    scale: float = 1.0
    inner: tuple[Inner, ...] = ()
    note: str | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"count is {self.count}")


def test_valid_document_becomes_a_dataclass(tmp_path):
    text = '{"kind": "a", "count": 2, "scale": 3, "inner": [{"name": "x", "place": [1, 2.5]}]}'
    whole = Outer("a", 2, 3.0, (Inner("x", (1.0, 2.5)),))
    assert parse_schema(Outer, text, "doc") == whole
    (tmp_path / "doc.json").write_text(text)
    assert read_schema(Outer, tmp_path / "doc.json") == whole
    assert check_values(Outer, {"kind": "a", "count": 2}, "pickle") == Outer("a", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "doc: Invalid JSON"),
        ("[]", "doc: "),
        ('{"kind": "a"}', "doc: count: Field required"),
        ('{"kind": "c", "count": 1}', "kind: Input should be 'a' or 'b'"),
        ('{"kind": "a", "count": "1"}', "count: Input should be a valid integer"),
        ('{"kind": "a", "count": true}', "count: Input should be a valid integer"),
        ('{"kind": "a", "count": 1, "scale": NaN}', "scale: Input should be a finite number"),
        ('{"kind": "a", "count": 1, "scale": 1e999}', "scale: Input should be a finite number"),
        ('{"kind": "a", "count": 1, "scale": 1' + "0" * 400 + "}", "scale: Input should be a"),
        ('{"kind": "a", "count": 1' + "0" * 5000 + "}", "doc: "),
        ('{"kind": "a", "count": 1, "note": []}', "note: Input should be a valid string"),
        ('{"kind": "a", "count": 1, "more": 1}', "more: Unexpected keyword argument"),
        ('{"kind": "a", "count": -1}', "doc: count is -1"),
        ('{"kind": "a", "count": 1, "inner": [{"name": 3}]}', "inner.0.name: Input should be a valid string"),
        ('{"kind": "a", "count": 1, "inner": null}', "inner: Input should be a valid array"),
        ("[" * 100_000, "doc: Invalid JSON"),
        ('{"kind": "a", "count": 1, "note": "' + "\\ud800" + '"}', "doc: Invalid JSON"),
    ],
)
def test_invalid_document_is_an_input_error(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_schema(Outer, text, "doc")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value", [object(), float("nan"), 10**400, {1, 2}, b"1", pytest.param(10**5000, id="long")]
)
def test_non_json_values_are_refused(value):
    with pytest.raises(InputError, match="pickle: "):
        check_values(Outer, {"kind": "a", "count": 1, "scale": value}, "pickle")


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json is missing"):
        read_schema(Outer, tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_schema(Outer, tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"kind": "\xe4"}')
    with pytest.raises(InputError, match=r"latin\.json: "):
        read_schema(Outer, tmp_path / "latin.json")


def test_names_that_are_not_utf8_are_stored_for_strict_readers(tmp_path):
    settings = {"root": os.fsdecode(b"Jos\xe9"), "size": 2, "n": [1.5, None]}
    write_json(tmp_path / "a.json", storable(settings))
    assert read_schema(dict, tmp_path / "a.json") == settings | {"root": r"Jos\udce9"}
