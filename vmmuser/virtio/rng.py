"""virtio-rng (virtio 1.2, section 5.4): fills the driver's buffers from the host's random bytes."""

from __future__ import annotations

import os

from vmmuser.virtio.base import Host

CHUNK_BYTES = 4096  # what one request gets at most; a driver asks again


class VirtioRng:
    """One queue of buffers to fill."""

    device_id = 4
    features = 0
    queue_sizes = (64,)
    threaded = False

    def connect(self, host: Host) -> None:
        """See VirtioDevice."""
        self._host = host

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """See VirtioDevice."""

    def activate(self, features: int) -> None:
        """See VirtioDevice."""

    def reset(self) -> None:
        """See VirtioDevice."""

    def serve(self) -> None:
        """See VirtioDevice."""
        queue = self._host.queues[0]
        done = False
        while True:
            while (chain := queue.pop()) is not None:
                data = os.urandom(min(chain.writable_bytes(), CHUNK_BYTES))
                queue.push(chain, chain.write_all(data))
                done = True
            if not queue.enable_notify():
                break
        if done:
            self._host.used(0)
