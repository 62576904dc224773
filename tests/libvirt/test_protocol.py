"""Strangers on the socket: frames that are wrong, cut off or too many, while others are served."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirtish.errors import Code
from libvirtish.rpc import frame as f
from libvirtish.rpc import types as t
from libvirtish.rpc import xdr
from libvirtish.rpc.client import RemoteError
from libvirtish.rpc.procedures import BY_NUMBER, KEEPALIVE_PING, KEEPALIVE_PONG, KEEPALIVE_PROGRAM
from tests.libvirt.daemon import LIMIT_S, Daemon

REMOTE = 0x20008086
HOSTNAME, LOOKUP, ATTACH_DEVICE, CAPABILITIES = 59, 23, 8, 7


class Stranger:
    """A client that sends whatever it likes."""

    def __init__(self, daemon: Daemon, opened: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(str(daemon.socket))
        if opened:
            self.send(f.Frame(REMOTE, 1, 0, 1, payload=xdr.encode(t.OpenArgs(None, 0))))
            assert self.answer().status == 0

    def send(self, frame: f.Frame | bytes) -> None:
        self.socket.sendall(frame if isinstance(frame, bytes) else frame.pack())

    def answer(self) -> f.Frame:
        return f.unpack(self._exactly(f.body_size(self._exactly(4))))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the daemon closed the connection"
            data += part
        return data

    def error(self) -> t.Error:
        answer = self.answer()
        assert answer.status == f.Status.ERROR
        error = xdr.decode(t.Error, answer.payload)
        assert error is not None
        return error

    def is_served(self) -> bool:
        self.send(f.Frame(REMOTE, HOSTNAME, 0, 77))
        answer = self.answer()
        return answer.serial == 77 and answer.status == 0

    def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            return self.socket.recv(1) == b""
        return True


@pytest.fixture
def stranger(quiet_daemon: Daemon) -> Iterator[Stranger]:
    stranger = Stranger(quiet_daemon)
    yield stranger
    stranger.socket.close()


@pytest.fixture
def other(quiet_daemon: Daemon) -> Iterator[Stranger]:
    """Somebody else, who is served before, meanwhile and afterwards."""
    other = Stranger(quiet_daemon)
    assert other.is_served()
    yield other
    assert other.is_served()
    other.socket.close()


@pytest.mark.parametrize("length", [0, 4, 27, (32 << 20) + 1, 2 << 30, 0xFFFFFFFF])
def test_a_length_that_cannot_be(
    quiet_daemon: Daemon, stranger: Stranger, other: Stranger, length: int
) -> None:
    stranger.send(length.to_bytes(4, "big"))
    assert stranger.is_closed()
    quiet_daemon.expect_log(f"a frame of {length} bytes; 28 to 33554432 are possible")


def test_half_a_message_and_then_silence(quiet_daemon: Daemon, other: Stranger) -> None:
    begun = len(quiet_daemon.log)
    parts = [b"\0", b"\0\0\0\x20", b"\0\0\0\x20" + struct.pack(">3I", REMOTE, 1, 59)]
    strangers = [Stranger(quiet_daemon) for _ in parts]
    for stranger, part in zip(strangers, parts, strict=True):
        stranger.send(part)
    assert other.is_served()
    for stranger in strangers:
        assert stranger.is_closed()
        stranger.socket.close()
    quiet_daemon.expect_log("half a message, then nothing for 1 s", begun)


def test_a_message_in_small_pieces_is_a_message(stranger: Stranger) -> None:
    for byte in f.Frame(REMOTE, HOSTNAME, 0, 5).pack():
        stranger.send(bytes([byte]))
    assert stranger.answer().serial == 5


def test_an_unknown_procedure(stranger: Stranger) -> None:
    stranger.send(f.Frame(REMOTE, 9999, 0, 2))
    error = stranger.error()
    assert (error.code, error.message) == (Code.RPC, "unknown procedure: 9999")
    assert stranger.is_served()


@pytest.mark.parametrize(
    ("number", "name"), [(ATTACH_DEVICE, "virDomainAttachDevice"), (401, "401")]
)
def test_a_procedure_that_is_not_served_is_named(
    stranger: Stranger, number: int, name: str
) -> None:
    stranger.send(f.Frame(REMOTE, number, 0, 2))
    error = stranger.error()
    assert error.code == Code.NO_SUPPORT
    assert name in (error.message or "")
    assert stranger.is_served()


@pytest.mark.parametrize(("program", "version"), [(0x12345678, 1), (REMOTE, 2), (0x20008088, 1)])
def test_an_unknown_program(stranger: Stranger, program: int, version: int) -> None:
    stranger.send(f.Frame(program, HOSTNAME, 0, 2, version=version))
    error = stranger.error()
    assert (error.code, error.message) == (
        Code.RPC,
        f"Cannot find program {program:#x} version {version}",
    )
    assert stranger.is_served()


@pytest.mark.parametrize(
    "payload", [b"", b"\x7f\xff\xff\xff", b"\0\0\0\x04demo" + b"more", b"\0\0\0\x02\xff\xfe\0\0"]
)
def test_arguments_that_are_none(stranger: Stranger, payload: bytes) -> None:
    stranger.send(f.Frame(REMOTE, LOOKUP, 0, 2, payload=payload))
    error = stranger.error()
    assert error.code == Code.RPC
    assert "Unable to decode message payload: domain_lookup_by_name" in (error.message or "")
    assert stranger.is_served()


@pytest.mark.parametrize("kind", [1, 2, 5, 6, 1 << 31])
def test_a_frame_that_only_a_server_sends(
    quiet_daemon: Daemon, stranger: Stranger, other: Stranger, kind: int
) -> None:
    stranger.send(f.Frame(REMOTE, HOSTNAME, kind, 2))
    assert stranger.is_closed()
    quiet_daemon.expect_log(f"a frame of type {kind}")


def test_before_the_connection_is_opened(quiet_daemon: Daemon, other: Stranger) -> None:
    stranger = Stranger(quiet_daemon, opened=False)
    stranger.send(f.Frame(REMOTE, HOSTNAME, 0, 2))
    assert stranger.error().code == Code.RPC
    stranger.send((1 << 20).to_bytes(4, "big"))  # a large frame is for those who have opened
    assert stranger.is_closed()


def test_a_stream_that_there_is_not(stranger: Stranger) -> None:
    stranger.send(f.Frame(REMOTE, 201, f.Kind.STREAM, 9, f.Status.CONTINUE, b"data"))
    stranger.send(f.Frame(REMOTE, 201, f.Kind.STREAM, 9, f.Status.OK))
    assert stranger.is_served()


def test_a_ping_is_answered(stranger: Stranger) -> None:
    stranger.send(f.keepalive(KEEPALIVE_PING))
    answer = stranger.answer()
    assert (answer.program, answer.procedure) == (KEEPALIVE_PROGRAM, KEEPALIVE_PONG)


def _resident_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


def test_a_client_that_does_not_read(quiet_daemon: Daemon, other: Stranger) -> None:
    """It is not read from any more, and what it would get is not piled up."""
    stranger = Stranger(quiet_daemon)
    before = _resident_mib(quiet_daemon.process.pid)
    stranger.socket.setblocking(False)
    calls = f.Frame(REMOTE, CAPABILITIES, 0, 3).pack() * 100
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 64 << 20:
            sent += stranger.socket.send(calls)
    assert sent < 64 << 20
    assert other.is_served()
    assert _resident_mib(quiet_daemon.process.pid) < before + 40
    stranger.socket.close()


def test_many_clients_that_say_nothing(quiet_daemon: Daemon, other: Stranger) -> None:
    silent = [Stranger(quiet_daemon, opened=False) for _ in range(200)]
    assert other.is_served()
    for each in silent:
        each.socket.close()


def test_every_procedure_with_every_nonsense(quiet_daemon: Daemon, other: Stranger) -> None:
    chance = random.Random(1)  # noqa: S311
    begun = len(quiet_daemon.log)
    for procedure in BY_NUMBER.values():
        if procedure.name == "connect_close":
            continue
        stranger = Stranger(quiet_daemon)
        payloads = [b"", bytes(4), bytes(200), b"\xff" * 200, b"\0\0\0\1a\0\0\0" + bytes(40)]
        payloads += [chance.randbytes(chance.randrange(1, 60) * 4) for _ in range(4)]
        for serial, payload in enumerate(payloads):
            stranger.send(f.Frame(procedure.program, procedure.number, 0, serial, payload=payload))
        answers = set()
        while len(answers) < len(payloads):
            answer = stranger.answer()
            if answer.kind == f.Kind.REPLY:
                answers.add(answer.serial)
        stranger.socket.close()
    assert not quiet_daemon.logged("failed", begun)
    assert not quiet_daemon.logged("cannot travel", begun)


def test_the_codec_s_own_client_gets_the_error(quiet_daemon: Daemon) -> None:
    connection = quiet_daemon.connect()
    with pytest.raises(RemoteError, match="Domain not found: no domain with matching name 'x'"):
        connection.ask(t.OneDomain, "domain_lookup_by_name", t.OneStr("x"))
    connection.close()
