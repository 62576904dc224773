"""The parts of the monitor that need no machine: cutting messages, types, the schema."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmmuser import __version__
from vmmuser.qmp.commands import COMMANDS, EVENTS
from vmmuser.qmp.stream import MAX_DEPTH, MAX_MESSAGE_BYTES, Splitter, decode
from vmmuser.qmp.types import (
    BOOL,
    EMPTY,
    INT,
    STR,
    Enum,
    ListOf,
    QmpError,
    Struct,
    Type,
    check,
    schema,
)


def _cut(*pieces: bytes) -> list[Any]:
    splitter = Splitter()
    parts = [part for piece in pieces for part in splitter.feed(piece)]
    return [part.description if isinstance(part, QmpError) else decode(part) for part in parts]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5), st.randoms())
def test_messages_come_out_however_they_are_cut(values: list[Any], chance: random.Random) -> None:
    stream = b"".join(
        json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "replace")
        + chance.choice([b"", b"\n", b"\r\n", b" \t"])
        for value in values
    )
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(5))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = [json.loads(json.dumps(value)) for value in values]
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates do not survive the trip
        assert len(_cut(*pieces)) == len(values)
    else:
        assert _cut(*pieces) == whole


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"{", b"}", b'"', b"[", b"]", b"\\"])))
def test_whatever_comes_a_message_behind_a_newline_is_found(pieces: list[bytes]) -> None:
    splitter = Splitter()
    for piece in pieces:
        for part in splitter.feed(piece):
            assert isinstance(part, bytes | QmpError)
    # Close strings by a control character, then whatever is open.
    list(splitter.feed(b"\n\n" + b"}" * 500 + b"\n\n"))
    parts = list(splitter.feed(b'\n{"a": 1}'))
    assert parts == [b'{"a": 1}']


@pytest.mark.parametrize(
    ("stream", "result"),
    [
        (b'{"a":1}{"b":2}', [{"a": 1}, {"b": 2}]),
        (b'{"a":"}{\\"["}', [{"a": '}{"['}]),
        (b"  \r\n\t", []),
        (b"garbage {", ["JSON parse error, expecting value"]),
        (b'garbage\n{"a":1}', ["JSON parse error, expecting value", {"a": 1}]),
        (b'}}}\n{"a":1}', ["JSON parse error, expecting value", {"a": 1}]),
        (b'17 "x" {"a":1}', ["JSON parse error, expecting value", {"a": 1}]),
        (b"[1]", [[1]]),
        (b'{"a":"x\n{"b":1}', ["JSON parse error, control character in a string", {"b": 1}]),
    ],
)
def test_cut(stream: bytes, result: list[Any]) -> None:
    assert _cut(stream) == result
    assert _cut(*(bytes((byte,)) for byte in stream)) == result


@pytest.mark.parametrize(
    "message",
    [
        b"{]",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": -Infinity}',
        b'{"\xff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_not_json(message: bytes) -> None:
    with pytest.raises(QmpError, match=r"^JSON parse error, "):
        decode(message)


def test_a_huge_message_is_refused_once_and_not_kept() -> None:
    splitter = Splitter()
    told = []
    for _ in range(3 * MAX_MESSAGE_BYTES // 4096):
        told += list(splitter.feed(b'["' + b"x" * 4092 + b'",'))
        assert len(splitter._buffer) <= MAX_MESSAGE_BYTES + 4096
    assert [str(part) for part in told] == ["JSON token size limit exceeded"]


def test_a_huge_string_is_refused_and_the_next_message_found() -> None:
    splitter = Splitter()
    told = list(splitter.feed(b'{"a": "'))
    for _ in range(3 * MAX_MESSAGE_BYTES // 65536):
        told += list(splitter.feed(b"{" * 65536))
    assert [str(part) for part in told] == ["JSON token size limit exceeded"]
    assert list(splitter.feed(b'"}{"b": 1}')) == [b'{"b": 1}']


def test_deep_nesting_is_refused_and_the_next_message_found() -> None:
    splitter = Splitter()
    deep = b"[" * 100_000 + b"]" * 100_000
    told = list(splitter.feed(deep + b'{"b": 1}'))
    assert [str(part) for part in told[:-1]] == ["JSON nesting depth limit exceeded"]
    assert told[-1] == b'{"b": 1}'
    allowed = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    (whole,) = Splitter().feed(allowed)
    assert isinstance(whole, bytes)
    decode(whole)


SHAPE = Struct(
    "Shape",
    {
        "name": STR,
        "size?": INT,
        "on?": BOOL,
        "kind?": Enum("Kind", ("a", "b")),
        "list?": ListOf(Struct("Item", {"x": INT})),
    },
)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "Parameter 'name' is missing"),
        ({"name": 1}, "Invalid parameter type for 'name', expected: string"),
        ({"name": "", "size": "1"}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "", "size": True}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "", "size": 1 << 63}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "", "on": 1}, "Invalid parameter type for 'on', expected: boolean"),
        ({"name": "", "kind": "c"}, "Parameter 'kind' does not accept value 'c'"),
        ({"name": "", "list": {}}, "Invalid parameter type for 'list', expected: array"),
        ({"name": "", "list": [1]}, "Invalid parameter type for 'list[0]', expected: object"),
        ({"name": "", "list": [{}]}, "Parameter 'list[0].x' is missing"),
        ({"name": "", "other": 1}, "Parameter 'other' is unexpected"),
        ({"name": None}, "Invalid parameter type for 'name', expected: string"),
    ],
)
def test_wrong_arguments(value: Any, problem: str) -> None:
    with pytest.raises(QmpError) as caught:
        check(SHAPE, value)
    assert caught.value.answer() == {"class": "GenericError", "desc": problem}


def test_right_arguments() -> None:
    check(SHAPE, {"name": "x", "size": -(1 << 63), "on": False, "kind": "b", "list": [{"x": 1}]})
    check(EMPTY, {})


def test_schema_is_closed_and_complete() -> None:
    entries = schema(list(COMMANDS.values()), EVENTS)
    by_name = {entry["name"]: entry for entry in entries}
    assert len(by_name) == len(entries)
    assert {"stop", "query-block", "SHUTDOWN", "str", "RunState"} <= set(by_name)
    for entry in entries:
        used = [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]
        used += [member["type"] for member in entry.get("members", ()) if "type" in member]
        for name in used:
            assert name in by_name, entry
    assert by_name["query-blockstats"]["arg-type"] == "q_obj_query-blockstats-arg"
    assert by_name["q_obj_query-blockstats-arg"]["members"] == [
        {"name": "query-nodes", "type": "bool", "default": None}
    ]


def test_one_name_is_one_type() -> None:
    found: dict[str, Type] = {}

    def walk(what: Type) -> None:
        assert found.setdefault(what.name, what) == what
        if isinstance(what, ListOf):
            walk(what.element)
        elif isinstance(what, Struct):
            for _, member, _ in what.fields():
                walk(member)

    for command in COMMANDS.values():
        walk(command.arguments)
        walk(command.returns)


def test_the_version_is_the_packages() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__
