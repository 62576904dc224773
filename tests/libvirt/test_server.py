"""The server alone, with a driver of a few procedures and limits that a test can reach."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from libvirtish.events import Events
from libvirtish.rpc import frame as f
from libvirtish.rpc import types as t
from libvirtish.rpc import xdr
from libvirtish.rpc.procedures import KEEPALIVE_PING, KEEPALIVE_PONG, KEEPALIVE_PROGRAM
from libvirtish.rpc.server import Client, Limits, Server

REMOTE = 0x20008086
OPEN, FEATURE, HOSTNAME, REGISTER = 1, 60, 59, 316
DOMAIN = t.Domain("demo" * 1000, bytes(16), 1)


class Driver:
    """Opens, tells its name slowly, and has events."""

    def __init__(self) -> None:
        self.events = Events()
        self.calls = self.most_calls = 0
        self.go_on = asyncio.Event()

    async def connect_open(self, client: Client, args: t.OpenArgs) -> None:
        client.opened = True

    async def connect_supports_feature(self, client: Client, args: t.OneInt) -> t.OneInt:
        client.wants_keepalive = True
        return t.OneInt(1)

    async def connect_get_hostname(self, client: Client, args: None) -> t.OneStr:
        self.calls += 1
        self.most_calls = max(self.calls, self.most_calls)
        await self.go_on.wait()
        self.calls -= 1
        return t.OneStr("host")

    async def connect_domain_event_callback_register_any(
        self, client: Client, args: t.RegisterArgs
    ) -> t.OneInt:
        return t.OneInt(self.events.subscribe(client, args.event))


class Peer:
    """A client on a socket of the test's own loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, number: int, args: object = None, serial: int = 0) -> None:
        self.writer.write(f.Frame(REMOTE, number, 0, serial, payload=xdr.encode(args)).pack())

    async def answer(self) -> f.Frame:
        size = f.body_size(await self.reader.readexactly(4))
        return f.unpack(await self.reader.readexactly(size))

    async def everything(self) -> None:
        while True:
            await self.answer()


Scenario = Callable[[Server, Driver, Callable[[], Awaitable[Peer]]], Awaitable[None]]


def run(limits: Limits, scenario: Scenario) -> None:
    async def main() -> None:
        driver = Driver()
        server = Server(driver, limits)
        with tempfile.TemporaryDirectory(prefix="kvmish-") as directory:
            path = str(Path(directory) / "sock")
            await server.listen(path)

            async def connect() -> Peer:
                peer = Peer(*await asyncio.open_unix_connection(path))
                peer.send(OPEN, t.OpenArgs(None, 0))
                assert (await peer.answer()).status == 0
                return peer

            await scenario(server, driver, connect)
            await server.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_client_that_answers_no_ping_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(
        server: Server, driver: Driver, connect: Callable[[], Awaitable[Peer]]
    ) -> None:
        dead, alive, old = await connect(), await connect(), await connect()
        for peer in (dead, alive):  # the third knows no keepalive, and is not asked
            peer.send(FEATURE, t.OneInt(10))
            await peer.answer()
        for _ in range(8):
            ping = await alive.answer()
            assert (ping.program, ping.procedure) == (KEEPALIVE_PROGRAM, KEEPALIVE_PING)
            alive.writer.write(f.keepalive(KEEPALIVE_PONG).pack())
        with pytest.raises(asyncio.IncompleteReadError):
            await dead.everything()
        driver.go_on.set()
        for peer in (alive, old):
            peer.send(HOSTNAME, serial=5)
            while (await peer.answer()).serial != 5:
                pass

    run(Limits(keepalive_s=0.02, keepalive_count=3), scenario)
    assert "no answer to keepalives" in caplog.text


def test_a_client_that_lets_events_pile_up_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(
        server: Server, driver: Driver, connect: Callable[[], Awaitable[Peer]]
    ) -> None:
        deaf, other = await connect(), await connect()
        for peer in (deaf, other):
            peer.send(REGISTER, t.RegisterArgs(0, None))
            await peer.answer()
        for detail in range(1000):  # 4 MB, far above the limit
            driver.events.lifecycle(DOMAIN, 3, detail)
            event = xdr.decode(t.CallbackLifecycleEvent, (await other.answer()).payload)
            assert event is not None
            assert event.message.detail == detail
        assert len(server.clients) == 1

    run(Limits(unread_bytes=1 << 20), scenario)
    assert "does not read what it is sent" in caplog.text


def test_so_many_calls_at_once_and_no_more() -> None:
    async def scenario(
        server: Server, driver: Driver, connect: Callable[[], Awaitable[Peer]]
    ) -> None:
        busy, other = await connect(), await connect()
        for serial in range(20):
            busy.send(HOSTNAME, serial=serial)
        while driver.calls < 5:
            await asyncio.sleep(0)
        other.send(FEATURE, t.OneInt(1), serial=99)
        assert (await other.answer()).serial == 99
        driver.go_on.set()
        assert [(await busy.answer()).serial for _ in range(20)] == list(range(20))
        assert driver.most_calls == 5

    run(Limits(calls_at_once=5), scenario)


def test_too_many_clients_are_turned_away() -> None:
    async def scenario(
        server: Server, driver: Driver, connect: Callable[[], Awaitable[Peer]]
    ) -> None:
        peers = [await connect() for _ in range(3)]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await connect()
        peers[0].writer.close()
        while len(server.clients) == 3:
            await asyncio.sleep(0.001)
        await connect()

    run(Limits(clients=3), scenario)
