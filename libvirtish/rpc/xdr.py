"""XDR (RFC 4506) from type hints: a struct is a dataclass, and its codec is read off its fields.

`Annotated[int, I32]` says how a plain Python type travels; lists carry their upper limit. Whatever
comes from the wire is checked before memory is taken for it; XdrError says what was wrong.
"""

from __future__ import annotations

import dataclasses
import struct as packing
import types
import typing
from abc import ABC, abstractmethod
from typing import Annotated, TypeVar, Union, dataclass_transform

STRING_MAX = 4 << 20  # REMOTE_STRING_MAX, bytes

T = TypeVar("T")


class XdrError(ValueError):
    """Bytes that are not what the protocol says, or a value that cannot travel."""


class Reader:
    """Takes bytes from the front of a message's payload."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        """`data`: the payload."""
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._at

    def take(self, size_bytes: int) -> bytes:
        """Return the next bytes. :raise XdrError: if there are fewer."""
        end = self._at + size_bytes
        if end > len(self._data):
            raise XdrError(f"{size_bytes} bytes wanted at {self._at}, {self.left} are left")
        taken, self._at = self._data[self._at : end], end
        return taken

    def count(self, limit: int, what: str) -> int:
        """Take a length word. :raise XdrError: if it is above the limit."""
        number = int.from_bytes(self.take(4), "big")
        if number > limit:
            raise XdrError(f"{what} of {number}, at most {limit} are allowed")
        return number

    def finish(self) -> None:
        """:raise XdrError: if something is left over."""
        if self.left:
            raise XdrError(f"{self.left} bytes too many")


class Codec(ABC):
    """How one type travels."""

    @abstractmethod
    def encode(self, out: bytearray, value: object) -> None:
        """Append the value. :raise XdrError: if it cannot travel."""

    @abstractmethod
    def decode(self, reader: Reader) -> object:
        """Take one value. :raise XdrError: if the bytes are not one."""


class Number(Codec):
    """An integer or a double, by its struct format."""

    def __init__(self, form: str) -> None:
        """`form`: a format character of the struct module."""
        self._form = packing.Struct(">" + form)

    def encode(self, out: bytearray, value: object) -> None:
        """Append it, big-endian."""
        try:
            out += self._form.pack(value)
        except packing.error as error:
            raise XdrError(f"{value!r}: {error}") from error

    def decode(self, reader: Reader) -> object:
        """Take it."""
        value: object = self._form.unpack(reader.take(self._form.size))[0]
        return value


class Opaque(Codec):
    """Bytes up to a limit, with their length in front and zeros up to a multiple of four behind."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes."""
        self._limit = limit

    def encode(self, out: bytearray, value: object) -> None:
        """Append length, bytes and padding."""
        if not isinstance(value, bytes) or len(value) > self._limit:
            raise XdrError(f"not bytes, or more than {self._limit}")
        out += len(value).to_bytes(4, "big") + value + bytes(-len(value) % 4)

    def decode(self, reader: Reader) -> bytes:
        """Take length, bytes and padding."""
        size = reader.count(self._limit, "bytes: a length")
        value = reader.take(size)
        if any(reader.take(-size % 4)):
            raise XdrError("padding that is not zero")
        return value


class Fixed(Codec):
    """So many bytes, nothing around them (a multiple of four)."""

    def __init__(self, size: int) -> None:
        """`size`: bytes."""
        self._size = size

    def encode(self, out: bytearray, value: object) -> None:
        """Append them."""
        if not isinstance(value, bytes) or len(value) != self._size:
            raise XdrError(f"not {self._size} bytes")
        out += value

    def decode(self, reader: Reader) -> bytes:
        """Take them."""
        return reader.take(self._size)


class String(Opaque):
    """UTF-8 without NUL: the C side would end there."""

    def encode(self, out: bytearray, value: object) -> None:
        """Append it as bytes."""
        if not isinstance(value, str):
            raise XdrError(f"{value!r} is not a string")
        # A word of the command line that is no UTF-8 goes as it came: the other side judges.
        super().encode(out, value.encode(errors="surrogateescape"))

    def decode(self, reader: Reader) -> str:  # type: ignore[override]
        """Take it."""
        raw = super().decode(reader)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise XdrError(f"a string that is not UTF-8: {error}") from error
        if "\0" in text:
            raise XdrError("a string with a NUL in it")
        return text


class Characters(Codec):
    """A C `char name[n]`: XDR gives each character a word of its own; NUL ends the text."""

    def __init__(self, size: int) -> None:
        """`size`: characters, the NUL among them."""
        self._size = size

    def encode(self, out: bytearray, value: object) -> None:
        """Append what fits, and NULs."""
        raw = str(value).encode("ascii", "replace")[: self._size - 1].ljust(self._size, b"\0")
        out += b"".join(byte.to_bytes(4, "big") for byte in raw)

    def decode(self, reader: Reader) -> str:
        """Take the words."""
        words = packing.unpack(f">{self._size}I", reader.take(4 * self._size))
        return bytes(word & 0x7F for word in words).split(b"\0")[0].decode("ascii")


class Array(Codec):
    """Any number of one type up to a limit."""

    def __init__(self, item: Codec, limit: int) -> None:
        """`limit`: items."""
        self._item, self._limit = item, limit

    def encode(self, out: bytearray, value: object) -> None:
        """Append the count and the items."""
        if not isinstance(value, list | tuple) or len(value) > self._limit:
            raise XdrError(f"not a list, or more than {self._limit} items")
        out += len(value).to_bytes(4, "big")
        for item in value:
            self._item.encode(out, item)

    def decode(self, reader: Reader) -> list[object]:
        """Take the count and the items."""
        count = reader.count(self._limit, "a list")
        if count > reader.left:  # an item takes at least a byte: no list longer than the message
            raise XdrError(f"a list of {count} in a message with {reader.left} bytes left")
        return [self._item.decode(reader) for _ in range(count)]


class Optional(Codec):
    """A value or nothing: a C pointer."""

    def __init__(self, item: Codec) -> None:
        """`item`: the codec of what may be there."""
        self._item = item

    def encode(self, out: bytearray, value: object) -> None:
        """Append 0, or 1 and the value."""
        out += (value is not None).to_bytes(4, "big")
        if value is not None:
            self._item.encode(out, value)

    def decode(self, reader: Reader) -> object:
        """Take the flag and perhaps the value."""
        return self._item.decode(reader) if reader.count(1, "a flag") else None


class Tagged(Codec):
    """A union: pairs (tag, value), each tag with a codec of its own."""

    def __init__(self, arms: dict[int, Codec]) -> None:
        """`arms`: tag -> codec."""
        self._arms = arms

    def encode(self, out: bytearray, value: object) -> None:
        """Append tag and value."""
        tag, inner = typing.cast("tuple[int, object]", value)
        out += tag.to_bytes(4, "big")
        self._arms[tag].encode(out, inner)

    def decode(self, reader: Reader) -> tuple[int, object]:
        """Take tag and value."""
        tag = int.from_bytes(reader.take(4), "big")
        if tag not in self._arms:
            raise XdrError(f"a union's tag {tag}, which is none of {sorted(self._arms)}")
        return tag, self._arms[tag].decode(reader)


class Struct(Codec):
    """A dataclass, field after field."""

    def __init__(self, cls: type) -> None:
        """`cls`: made by @struct."""
        hints = typing.get_type_hints(cls, include_extras=True)
        self._cls = cls
        self._fields = [
            (field.name, codec_of(hints[field.name])) for field in dataclasses.fields(cls)
        ]

    def encode(self, out: bytearray, value: object) -> None:
        """Append the fields."""
        if not isinstance(value, self._cls):
            raise XdrError(f"{value!r} is not a {self._cls.__name__}")
        for name, codec in self._fields:
            codec.encode(out, getattr(value, name))

    def decode(self, reader: Reader) -> object:
        """Take the fields."""
        return self._cls(*[codec.decode(reader) for _, codec in self._fields])


@dataclasses.dataclass(frozen=True)
class Max:
    """The limit of an `Annotated[list[X], Max(n)]`."""

    items: int


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
    """Make a class a struct of the wire."""
    return dataclasses.dataclass(frozen=True, slots=True)(cls)


_CODECS: dict[object, Codec] = {}


def codec_of(hint: object) -> Codec:
    """Return the codec of a type hint of a struct's field, or of a struct."""
    if hint not in _CODECS:
        _CODECS[hint] = _derive(hint)
    return _CODECS[hint]


def _derive(hint: object) -> Codec:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for mark in hint.__metadata__:  # type: ignore[attr-defined]
            if isinstance(mark, Codec):
                return mark
            if isinstance(mark, Max):
                return Array(codec_of(typing.get_args(parts[0])[0]), mark.items)
    if origin in (Union, types.UnionType):
        return Optional(codec_of(next(part for part in parts if part is not types.NoneType)))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return Struct(hint)
    raise TypeError(f"{hint!r} does not say how it travels")


def encode(value: object) -> bytes:
    """Encode a struct; None, where a procedure has no data, is nothing. :raise XdrError:"""
    out = bytearray()
    if value is not None:
        codec_of(type(value)).encode(out, value)
    return bytes(out)


def decode(cls: type[T] | None, data: bytes) -> T | None:
    """Decode a struct, all of the data; cls None expects nothing. :raise XdrError:"""
    reader = Reader(data)
    value = None if cls is None else codec_of(cls).decode(reader)
    reader.finish()
    return typing.cast("T | None", value)


I32, U32, I64, U64, F64 = (Number(form) for form in "iIqQd")
STRING = String(STRING_MAX)

Int = Annotated[int, I32]
UInt = Annotated[int, U32]
UHyper = Annotated[int, U64]
Str = Annotated[str, STRING]
OptStr = Annotated[str | None, Optional(STRING)]
Uuid = Annotated[bytes, Fixed(16)]
