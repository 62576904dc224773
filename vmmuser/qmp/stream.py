"""Cuts a stream of bytes into JSON messages, newline or not, without keeping more than one of
bounded size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from vmmuser.qmp.types import Json, QmpError

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 400  # below what Python's own parser can do

_BLANK = re.compile(rb"[ \t\r\n]*")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\\x00-\x1f]')
_RECOVERY = re.compile(rb"[{\[\n]")


class Splitter:
    """Feed it what arrives; it returns the messages, or what is wrong with them."""

    def __init__(self) -> None:
        """Start between two messages."""
        self._buffer = bytearray()
        self._depth = 0
        self._in_string = self._escaped = False
        self._skips = False  # the rest of a message that was refused
        self._recovers = False  # the rest of what was no message

    def feed(self, data: bytes) -> Iterator[bytes | QmpError]:
        """Take bytes; messages, each as soon as it is whole."""
        at = 0
        while at < len(data):
            if self._depth == 0:
                at, problem = self._between(data, at)
                if problem:
                    yield problem
            else:
                end, whole = self._inside(data, at)
                if not self._skips:
                    self._buffer += data[at:end]
                at = end
                yield from self._taken(whole)

    def _between(self, data: bytes, at: int) -> tuple[int, QmpError | None]:
        """Look for the beginning of a message; whatever else comes is an error, told once."""
        if self._recovers:
            found = _RECOVERY.search(data, at)
            if found is None:
                return len(data), None
            self._recovers = False
            at = found.start()
        blank = _BLANK.match(data, at)
        at = blank.end() if blank else at
        if at == len(data):
            return at, None
        if data[at : at + 1] in (b"{", b"["):
            self._depth = 1
            self._buffer += data[at : at + 1]
            return at + 1, None
        self._recovers = True
        return at, QmpError("JSON parse error, expecting value")

    def _inside(self, data: bytes, at: int) -> tuple[int, bool]:
        """Go on within a message; where it (or the data) ends, and whether it is whole."""
        while at < len(data):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            pattern = _IN_STRING if self._in_string else _STRUCTURE
            found = pattern.search(data, at)
            if found is None:
                return len(data), False
            at = found.end()
            byte = found.group()
            if byte == b'"':
                self._in_string = not self._in_string
            elif byte == b"\\":
                self._escaped = True
            elif self._in_string:  # a control character: as good as certainly a lost quote
                self._depth = 0
                return at, True
            else:
                self._depth += 1 if byte in b"{[" else -1
                if self._depth == 0:
                    return at, True
                if self._depth > MAX_DEPTH and not self._skips:
                    return at, False
        return at, False

    def _taken(self, whole: bool) -> Iterator[bytes | QmpError]:
        message = bytes(self._buffer) if whole else b""
        if whole:
            self._buffer.clear()
            broken, self._in_string = self._in_string, False
            self._recovers = broken
            skipped, self._skips = self._skips, False
            if broken and not skipped:
                yield QmpError("JSON parse error, control character in a string")
            elif not skipped:
                yield message
        elif not self._skips:
            problem = ""
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                problem = "JSON token size limit exceeded"
            elif self._depth > MAX_DEPTH:
                problem = "JSON nesting depth limit exceeded"
            if problem:
                self._buffer.clear()
                self._skips = True
                yield QmpError(problem)


def _no_constant(word: str) -> Json:
    raise ValueError(f"invalid keyword '{word}'")


def _finite(word: str) -> float:
    """Python would answer 1e999 with Infinity, which is no JSON."""
    number = float(word)
    if math.isinf(number):
        raise ValueError(f"{word} is beyond a number's range")
    return number


def decode(message: bytes) -> Json:
    """Read one message. :raise QmpError: if it is not JSON."""
    try:
        return json.loads(message.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise QmpError(f"JSON parse error, {error.msg}") from None
    except UnicodeDecodeError:
        raise QmpError("JSON parse error, invalid UTF-8") from None
    except (RecursionError, ValueError) as error:
        raise QmpError(f"JSON parse error, {error}") from None
