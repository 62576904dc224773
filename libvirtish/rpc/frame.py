"""Frames of the remote protocol: a length, six words, a payload."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from libvirtish.errors import FROM_RPC, LEVEL_ERROR, Code, FrameError, VirError
from libvirtish.rpc import types as t
from libvirtish.rpc import xdr
from libvirtish.rpc.procedures import KEEPALIVE_PROGRAM, PROTOCOL_VERSION

LENGTH_BYTES = 4
FRAME_MAX = 32 << 20  # bytes, the length word included
FRAME_MIN = 28
STREAM_CHUNK = 262_120  # bytes of data in one stream frame: what every client takes

_HEADER = struct.Struct(">6I")


class Kind(IntEnum):
    """What a frame is (virNetMessageType)."""

    CALL = 0
    REPLY = 1
    EVENT = 2
    STREAM = 3
    CALL_WITH_FDS = 4
    REPLY_WITH_FDS = 5


class Status(IntEnum):
    """How it goes (virNetMessageStatus); CONTINUE is for streams."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


@dataclass(frozen=True)
class Frame:
    """One frame, taken apart."""

    program: int
    procedure: int
    kind: int
    serial: int
    status: int = Status.OK
    payload: bytes = b""
    version: int = PROTOCOL_VERSION

    def pack(self) -> bytes:
        """Return the bytes, length first. :raise FrameError: if they are too many."""
        size = FRAME_MIN + len(self.payload)
        if size > FRAME_MAX:
            raise FrameError(f"a frame of {size} bytes, at most {FRAME_MAX}")
        words = (self.program, self.version, self.procedure, self.kind, self.serial, self.status)
        return size.to_bytes(4, "big") + _HEADER.pack(*words) + self.payload

    def reply(self, value: object = None) -> Frame:
        """Return the reply to this call. :raise xdr.XdrError: if the value cannot travel."""
        return replace(self, kind=Kind.REPLY, status=Status.OK, payload=xdr.encode(value))

    def refusal(self, error: VirError) -> Frame:
        """Return the reply that says an error; on a stream's frame, the stream's end with it."""
        kind = Kind.STREAM if self.kind == Kind.STREAM else Kind.REPLY
        payload = xdr.encode(error_struct(error))
        return replace(self, kind=kind, status=Status.ERROR, payload=payload, version=1)


def unpack(body: bytes) -> Frame:
    """Take apart what follows the length word."""
    program, version, procedure, kind, serial, status = _HEADER.unpack_from(body)
    return Frame(program, procedure, kind, serial, status, body[_HEADER.size :], version)


def body_size(length_word: bytes, limit: int = FRAME_MAX) -> int:
    """Bytes that follow a length word. :raise FrameError: if no frame can be so long."""
    size = int.from_bytes(length_word, "big")
    if not FRAME_MIN <= size <= limit:
        raise FrameError(f"a frame of {size} bytes; {FRAME_MIN} to {limit} are possible")
    return size - LENGTH_BYTES


def keepalive(procedure: int) -> Frame:
    """Return a ping or a pong."""
    return Frame(KEEPALIVE_PROGRAM, procedure, Kind.EVENT, 0)


def error_struct(error: VirError) -> t.Error:
    """Return an error as it travels; a message too long for a string is cut."""
    message = str(error)[: xdr.STRING_MAX // 4]
    return t.Error(
        code=int(error.code),
        domain=error.domain,
        message=message,
        level=LEVEL_ERROR,
        dom=None,
        str1=message,
        str2=None,
        str3=None,
        int1=-1,
        int2=-1,
        net=None,
    )


def rpc_error(message: str) -> VirError:
    """Return an error of the protocol itself."""
    return VirError(Code.RPC, message, FROM_RPC)
