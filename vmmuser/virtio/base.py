"""What every virtio device shares, whatever its transport: features, queues, configuration."""

from __future__ import annotations

from typing import Protocol

from vmmuser.virtio.queue import Queue

F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32

RING_FEATURES = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1


class Host(Protocol):
    """What a device may ask of its transport."""

    queues: list[Queue]

    def used(self, queue: int) -> None:
        """Buffers were given back: interrupt the driver if it wants that."""

    def kick(self) -> None:
        """Let the device look at its queues, where notifications are served; for any thread."""


class VirtioDevice(Protocol):
    """The part of a virtio device that knows its type."""

    device_id: int
    features: int
    threaded: bool  # its requests block, so a thread of its own serves them

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Entries of each queue."""

    def connect(self, host: Host) -> None:
        """Remember the transport."""

    def read_config(self) -> bytes:
        """Return the configuration space."""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to the configuration space."""

    def activate(self, features: int) -> None:
        """DRIVER_OK, with the features that were agreed on."""

    def serve(self) -> None:
        """Serve all queues. :raise QueueError: if the driver broke one."""

    def reset(self) -> None:
        """Forget the driver."""
