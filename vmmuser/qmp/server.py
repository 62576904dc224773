"""The QMP server: a listening unix socket, its clients, and the events they all get."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from qemu.qmp.error import QMPError

from vmmuser.chardev import Listener
from vmmuser.qmp.commands import COMMANDS, Target, call
from vmmuser.qmp.monitor import Monitor, event_message
from vmmuser.runstate import Event

MAX_CLIENTS = 64
LAST_WORDS_S = 1.0


class QmpServer:
    """Serves commands on one machine to any number of clients (up to 64)."""

    def __init__(self, listener: Listener, target: Target) -> None:
        """`listener` is closed by whoever made it."""
        self._listener, self._target = listener, target
        self._clients: set[Monitor] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # What a client does wrong is answered; the library would print it too.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)

    def start(self) -> None:
        """Accept clients. In a coroutine."""
        self._spawn(self._accept())

    def _spawn(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._listener.socket)
            except OSError:  # it went away, or we have no descriptor left
                await asyncio.sleep(0.1)
                continue
            if len(self._clients) >= MAX_CLIENTS:
                peer.close()
            else:
                self._spawn(self._serve(peer))

    async def _serve(self, peer: socket.socket) -> None:
        client = Monitor(COMMANDS, lambda what, arguments: call(self._target, what, arguments))
        self._clients.add(client)
        try:
            await client.connect(peer)
            await client.serve()
        except (QMPError, AssertionError):  # connect asserts that nobody hangs up meanwhile
            peer.close()
        finally:
            self._clients.discard(client)
            # What ended it (end of file, a reset) was the client's doing.
            with contextlib.suppress(Exception):
                await client.disconnect()

    def broadcast(self, event: Event) -> None:
        """Tell all clients."""
        message = event_message(event)
        for client in list(self._clients):
            client.send_event(message)

    async def close(self) -> None:
        """Let every client have its last words, as far as it reads them within a second."""
        clients = list(self._clients)
        for task in list(self._tasks):
            task.cancel()
        farewells = [asyncio.create_task(_farewell(client)) for client in clients]
        if farewells:
            await asyncio.wait(farewells, timeout=LAST_WORDS_S)
        for client in clients:
            client.abort()


async def _farewell(client: Monitor) -> None:
    with contextlib.suppress(Exception):
        await client.disconnect()
