"""The types that commands and events are declared with: from a declaration follow the check of
arguments, in QEMU's words, and the answer to query-qmp-schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any


class QmpError(Exception):
    """An error that a client is answered with."""

    def __init__(self, description: str, kind: str = "GenericError") -> None:
        """`kind` is QMP's error class; but for a few, clients look at no other."""
        super().__init__(description)
        self.description, self.kind = description, kind

    def answer(self) -> dict[str, Json]:
        """Return the `error` member of the response."""
        return {"class": self.kind, "desc": self.description}


@dataclass(frozen=True)
class Builtin:
    """A JSON type; `said` is what QEMU calls it in errors."""

    name: str
    json_type: str
    said: str
    python: type


STR = Builtin("str", "string", "string", str)
INT = Builtin("int", "int", "integer", int)
BOOL = Builtin("bool", "boolean", "boolean", bool)


@dataclass(frozen=True)
class Enum:
    """One of some words."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class ListOf:
    """An array."""

    element: Type

    @property
    def name(self) -> str:
        """As QEMU's introspection writes it."""
        return f"[{self.element.name}]"


@dataclass(frozen=True)
class Struct:
    """An object; a member whose name ends in `?` may be missing."""

    name: str
    members: Mapping[str, Type] = field(default_factory=dict)

    def fields(self) -> list[tuple[str, Type, bool]]:
        """Return name, type, and whether it is optional."""
        return [(name.rstrip("?"), what, name.endswith("?")) for name, what in self.members.items()]


Type = Builtin | Enum | ListOf | Struct
EMPTY = Struct("q_empty")


def check(what: Type, value: Json, name: str = "") -> None:
    """Compare a value with its type. :raise QmpError: at the first difference."""
    match what:
        case Builtin():
            fits = not isinstance(value, int) or -(1 << 63) <= value < 1 << 63
            if type(value) is not what.python or not fits:
                raise _wrong_type(name, what.said)
        case Enum():
            if not isinstance(value, str):
                raise _wrong_type(name, "string")
            if value not in what.values:
                raise QmpError(f"Parameter '{name}' does not accept value '{value}'")
        case ListOf():
            if not isinstance(value, list):
                raise _wrong_type(name, "array")
            for index, element in enumerate(value):
                check(what.element, element, f"{name}[{index}]")
        case Struct():
            _check_struct(what, value, name)


def _check_struct(what: Struct, value: Json, name: str) -> None:
    if not isinstance(value, dict):
        raise _wrong_type(name, "object")
    prefix = f"{name}." if name else ""
    fields = what.fields()
    for key, kind, optional in fields:
        if key in value:
            check(kind, value[key], prefix + key)
        elif not optional:
            raise QmpError(f"Parameter '{prefix}{key}' is missing")
    known = {key for key, _, _ in fields}
    for key in value:
        if key not in known:
            raise QmpError(f"Parameter '{prefix}{key}' is unexpected")


def _wrong_type(name: str, said: str) -> QmpError:
    return QmpError(f"Invalid parameter type for '{name}', expected: {said}")


@dataclass(frozen=True)
class Command:
    """A command: what it takes, what it returns, and who does it."""

    name: str
    arguments: Struct
    returns: Type
    run: Callable[..., Json]


@dataclass(frozen=True)
class EventType:
    """An event and its data."""

    name: str
    data: Struct


def schema(commands: list[Command], events: list[EventType]) -> list[dict[str, Json]]:
    """Describe them as QAPI's SchemaInfo; each type once."""
    types: dict[str, dict[str, Json]] = {}
    entries: list[dict[str, Json]] = []
    for command in commands:
        _describe(command.arguments, types)
        _describe(command.returns, types)
        entries.append(
            {
                "name": command.name,
                "meta-type": "command",
                "arg-type": command.arguments.name,
                "ret-type": command.returns.name,
                "allow-oob": False,
            }
        )
    for event in events:
        _describe(event.data, types)
        entries.append({"name": event.name, "meta-type": "event", "arg-type": event.data.name})
    return entries + list(types.values())


def _describe(what: Type, types: dict[str, dict[str, Json]]) -> None:
    if what.name in types:
        return
    entry: dict[str, Json] = {"name": what.name}
    types[what.name] = entry
    match what:
        case Builtin():
            entry |= {"meta-type": "builtin", "json-type": what.json_type}
        case Enum():
            members = [{"name": value} for value in what.values]
            entry |= {"meta-type": "enum", "members": members, "values": list(what.values)}
        case ListOf():
            entry |= {"meta-type": "array", "element-type": what.element.name}
            _describe(what.element, types)
        case Struct():
            described = []
            for key, kind, optional in what.fields():
                described.append({"name": key, "type": kind.name})
                if optional:
                    described[-1]["default"] = None  # type: ignore[assignment]
                _describe(kind, types)
            entry |= {"meta-type": "object", "members": described}
