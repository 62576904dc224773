"""virtio-console (virtio 1.2, section 5.3) with one port: a receive queue and a transmit queue."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from vmmuser.virtio.base import Host

RECEIVEQ, TRANSMITQ = 0, 1
CHUNK_BYTES = 1 << 16
INPUT_LIMIT_BYTES = 1 << 20


class Sink(Protocol):
    """Where the characters go."""

    def write(self, data: bytes) -> None:
        """Take them; must not block for long."""


class VirtioConsole:
    """The port's output goes to a sink; its input arrives by `receive`."""

    device_id = 3
    features = 0
    queue_sizes = (64, 64)
    threaded = False

    def __init__(self, sink: Sink) -> None:
        """Write output to `sink`."""
        self._sink = sink
        self._input: deque[bytes] = deque()
        self._input_bytes = 0

    def connect(self, host: Host) -> None:
        """See VirtioDevice."""
        self._host = host

    def read_config(self) -> bytes:
        """See VirtioDevice; without F_SIZE and F_MULTIPORT the fields are 0."""
        return bytes(12)

    def write_config(self, offset: int, data: bytes) -> None:
        """See VirtioDevice; emergency write is not offered."""

    def activate(self, features: int) -> None:
        """See VirtioDevice."""

    def reset(self) -> None:
        """See VirtioDevice; what was typed stays, the next driver reads it."""

    def receive(self, data: bytes) -> None:
        """Take input; what exceeds 1 MiB of waiting input is dropped."""
        if self._input_bytes + len(data) <= INPUT_LIMIT_BYTES:
            self._input.append(data)
            self._input_bytes += len(data)
            self._host.kick()

    def serve(self) -> None:
        """See VirtioDevice."""
        self._transmit()
        self._receive()

    def _transmit(self) -> None:
        queue = self._host.queues[TRANSMITQ]
        done = False
        while True:
            while (chain := queue.pop()) is not None:
                for part in chain.readable:
                    for at in range(0, len(part), CHUNK_BYTES):
                        self._sink.write(bytes(part[at : at + CHUNK_BYTES]))
                queue.push(chain, 0)
                done = True
            if not queue.enable_notify():
                break
        if done:
            self._host.used(TRANSMITQ)

    def _receive(self) -> None:
        queue = self._host.queues[RECEIVEQ]
        done = False
        while self._input:
            chain = queue.pop()
            if chain is None:
                if queue.enable_notify():
                    continue
                break
            data = self._input.popleft()
            used = chain.write_all(data)
            self._input_bytes -= used
            if used == 0:  # a buffer that holds nothing: keep the input, give the buffer back
                self._input.appendleft(data)
            elif used < len(data):
                self._input.appendleft(data[used:])
            queue.push(chain, used)
            done = True
        if done:
            self._host.used(RECEIVEQ)
