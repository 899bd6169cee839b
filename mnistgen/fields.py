"""The values of a dataclass's fields against their types, in one place for files, flags and the library."""

import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from mnistgen.errors import UsageError, suggestion

_NUMBER = 1e308  # what a float can hold


def checked(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` for fields of the dataclass `cls`; JSON's lists become tuples where those belong.

    Raises `UsageError` for a field that there is not, and for a value that is not of its field's type.
    """
    hints = types_of(cls)
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{cls.__qualname__} has no field {str(name)[:80]!r}. {suggestion(str(name), hints)}")
        found[name] = value if _is(value, hints[name]) and hints[name] is not Any else _tuples(value)
        require_type(name, found[name], hints[name])
    return found


def require_type(name: str, value: Any, hint: Any) -> None:
    """Raise `UsageError` where `value` is not of the type that the field `name` has."""
    if not _is(value, hint):
        shown = repr(value)
        raise UsageError(f"{name} is {shown[:80]}{'...' * (len(shown) > 80)}; it must be {_says(hint)}.")


def types_of(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass; Any where what its annotation names is not to be had."""
    return _types_of(cls)


@cache
def _types_of(cls: Hashable) -> dict[str, Any]:
    assert isinstance(cls, type)
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError, SyntaxError):
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in fields(cls)}


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is Union or origin is types.UnionType:
        return any(_is(value, each) for each in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return isinstance(value, tuple) and all(_is(each, arguments[0]) for each in value)
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(_is, value, arguments))
    if origin is list:
        return isinstance(value, list) and all(_is(each, arguments[0]) for each in value)
    if hint is float:
        return isinstance(value, float) or (_is(value, int) and abs(value) < _NUMBER)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if hint in (bool, str, Path, type(None)):
        return isinstance(value, hint)
    kind = origin or hint
    return isinstance(value, kind) if kind in (dict, tuple) else True


def _says(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is Union or origin is types.UnionType:
        return " or ".join(_says(each) for each in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return f"a tuple of which each is {_says(arguments[0])}"
    if origin is tuple:
        return f"a tuple of {len(arguments)}: {', '.join(map(_says, arguments))}"
    if origin is list:
        return f"a list of which each is {_says(arguments[0])}"
    names = {
        int: "an int",
        float: "a float",
        bool: "a bool",
        str: "a str",
        Path: "a path",
        type(None): "None",
        dict: "a dict",
    }
    return names.get(origin or hint, str(hint))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
