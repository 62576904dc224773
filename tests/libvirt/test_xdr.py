"""The codec: what travels comes back, and bytes of strangers give an XdrError and nothing else."""

from __future__ import annotations

import inspect
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirtish.driver import Driver
from libvirtish.rpc import procedures, xdr
from libvirtish.rpc import types as t
from libvirtish.rpc.unserved import UNSERVED

DOMAIN = t.Domain("demo", bytes(range(16)), -1)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (t.OneInt(-1), "ffffffff"),
        (t.OneUHyper(1 << 40), "0000010000000000"),
        (t.OneStr("abcde"), "00000005" "6162636465000000"),
        (t.OneOptStr(None), "00000000"),
        (t.OneOptStr("ab"), "00000001" "00000002" "61620000"),
        (t.Ints([1, 2]), "00000002" "00000001" "00000002"),
        (DOMAIN, "00000004" "64656d6f" "000102030405060708090a0b0c0d0e0f" "ffffffff"),
        # the small C types and the characters of an array are a word each
        (t.DomainInfo(1, 2, 3, 4, 5), "00000001" + f"{2:016x}{3:016x}" + f"{4:08x}{5:016x}"),
        (
            t.TypedParam("x", (t.PARAM_BOOLEAN, 1)),
            "00000001" "78000000" "00000006" "00000001",
        ),
        (t.TypedParam("x", (t.PARAM_STRING, "y")), "0000000178000000000000070000000179000000"),
    ],
)  # fmt: skip
def test_the_bytes_are_those_of_the_protocol(value: object, encoded: str) -> None:
    assert xdr.encode(value).hex() == encoded
    assert xdr.decode(type(value), bytes.fromhex(encoded)) == value


def test_the_model_of_the_node_is_32_words() -> None:
    info = t.NodeInfo("x86_64", 1, 2, 3, 1, 1, 2, 1)
    raw = xdr.encode(info)
    assert len(raw) == 32 * 4 + 8 + 6 * 4
    assert raw[:8] == b"\0\0\0x\0\0\0008"
    assert xdr.decode(t.NodeInfo, raw) == info


@pytest.mark.parametrize(
    ("cls", "encoded", "complaint"),
    [
        (t.OneStr, "7fffffff", "2147483647, at most 4194304"),
        (t.OneStr, "00000004" "6162", "4 bytes wanted"),
        (t.OneStr, "00000001" "61000001", "padding"),
        (t.OneStr, "00000002" "fffe0000", "UTF-8"),
        (t.OneStr, "00000002" "61000000", "NUL"),
        (t.Ints, "00004001", "at most 16384"),
        (t.Ints, "00004000" "00000001", "a list of 16384"),
        (t.OneOptStr, "00000002", "at most 1"),
        (t.OneInt, "00000001" "00", "1 bytes too many"),
        (t.TypedParam, "0000000178000000" "00000009" "00000001", "tag 9"),
        (None, "00000000", "4 bytes too many"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(cls: type | None, encoded: str, complaint: str) -> None:
    with pytest.raises(xdr.XdrError, match=complaint):
        xdr.decode(cls, bytes.fromhex(encoded))


@pytest.mark.parametrize(
    "value", [t.OneInt(1 << 31), t.OneUInt(-1), t.OneUuid(b"short"), t.OneStr("x" * (5 << 20))]
)
def test_what_cannot_travel_is_refused(value: object) -> None:
    with pytest.raises(xdr.XdrError):
        xdr.encode(value)


_ARGS = sorted({each.args for each in procedures.REMOTE if each.args}, key=lambda cls: cls.__name__)


@given(st.sampled_from(_ARGS), st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(cls: type, data: bytes) -> None:
    try:
        value = xdr.decode(cls, data)
    except xdr.XdrError:
        return
    assert xdr.encode(value) == data


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.integers(-(1 << 31), (1 << 31) - 1),
)
def test_a_domain_comes_back(name: str, number: int) -> None:
    domain = t.Domain(name, bytes(16), number)
    assert xdr.decode(t.Domain, xdr.encode(domain)) == domain


def test_every_procedure_has_a_method_of_its_types() -> None:
    for procedure in procedures.BY_NUMBER.values():
        method = getattr(Driver, procedure.handler or procedure.name)
        hints = typing.get_type_hints(method)
        assert inspect.iscoroutinefunction(method)
        assert hints["args"] == (procedure.args or type(None)), procedure.name
        if not procedure.stream:
            assert hints["return"] == (procedure.ret or type(None)), procedure.name


def test_numbers_and_names_are_given_once() -> None:
    numbers = [each.number for each in (*procedures.REMOTE, *procedures.EVENTS)]
    assert len(numbers) == len(set(numbers))
    assert not set(numbers) & UNSERVED.keys()
    assert max(*numbers, *UNSERVED) <= procedures.HIGHEST
    assert len(procedures.BY_NAME) == len(procedures.REMOTE) + len(procedures.QEMU)
