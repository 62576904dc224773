"""A virtio driver for tests: rings in guest memory, and a transport spoken to as Linux would."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.device.fakes import Line
from vmmuser.memory import GuestMemory
from vmmuser.virtio.base import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice
from vmmuser.virtio.mmio import VirtioMmio
from vmmuser.virtio.queue import F_INDIRECT, F_NEXT, F_WRITE

MEMORY = 1 << 20
ALL_FEATURES = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC


@dataclass
class DriverQueue:
    """A driver's queue of `size` entries, at `base`; buffers are handed out behind it."""

    memory: GuestMemory
    size: int
    base: int
    event_idx: bool = False
    avail_idx: int = 0
    used_seen: int = 0
    next_desc: int = 0
    kicks: int = field(default=0)

    @property
    def desc(self) -> int:
        return self.base

    @property
    def avail(self) -> int:
        return self.base + 16 * self.size

    @property
    def used(self) -> int:
        return (self.avail + 6 + 2 * self.size + 3) & ~3

    def put_desc(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        raw = struct.pack("<QIHH", address, length, flags, following)
        self.memory.write(self.desc + 16 * index, raw)

    def publish(self, head: int) -> None:
        """Make a chain available."""
        at = self.avail + 4 + 2 * (self.avail_idx % self.size)
        self.memory.write(at, struct.pack("<H", head))
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.memory.write(self.avail + 2, struct.pack("<H", self.avail_idx))

    def add(self, buffers: list[tuple[int, int, bool]]) -> int:
        """Chain (address, length, device writes) buffers and publish; the head."""
        head = self.next_desc
        for i, (address, length, writable) in enumerate(buffers):
            last = i == len(buffers) - 1
            flags = (F_WRITE if writable else 0) | (0 if last else F_NEXT)
            index = (head + i) % self.size
            self.put_desc(index, address, length, flags, (index + 1) % self.size)
        self.next_desc = (head + len(buffers)) % self.size
        self.publish(head)
        return head

    def add_indirect(self, table: int, buffers: list[tuple[int, int, bool]]) -> int:
        """The same, through an indirect table at `table`."""
        for i, (address, length, writable) in enumerate(buffers):
            flags = (F_WRITE if writable else 0) | (F_NEXT if i < len(buffers) - 1 else 0)
            self.memory.write(table + 16 * i, struct.pack("<QIHH", address, length, flags, i + 1))
        head = self.next_desc
        self.next_desc = (head + 1) % self.size
        self.put_desc(head, table, 16 * len(buffers), F_INDIRECT, 0)
        self.publish(head)
        return head

    def completions(self) -> list[tuple[int, int]]:
        """(head, written) of what came back since the last call."""
        (idx,) = struct.unpack("<H", self.memory.read(self.used + 2, 2))
        done = []
        while self.used_seen != idx:
            at = self.used + 4 + 8 * (self.used_seen % self.size)
            done.append(struct.unpack("<II", self.memory.read(at, 8)))
            self.used_seen = (self.used_seen + 1) & 0xFFFF
        if self.event_idx:  # used_event: interrupt me at the next one
            self.memory.write(self.avail + 4 + 2 * self.size, struct.pack("<H", self.used_seen))
        return done

    def set_no_interrupt(self, value: bool) -> None:
        self.memory.write(self.avail, struct.pack("<H", int(value)))

    def avail_event(self) -> int:
        raw = self.memory.read(self.used + 4 + 8 * self.size, 2)
        return int(struct.unpack("<H", raw)[0])


class Driver:
    """A transport, its memory and interrupt line, and the driver's queues."""

    def __init__(self, device: VirtioDevice, features: int = F_VERSION_1) -> None:
        self.memory = GuestMemory([(0, MEMORY)])
        self.irq = Line()
        self.transport = VirtioMmio(device, self.memory, self.irq)
        self.features = features
        self.queues: list[DriverQueue] = []

    def read(self, offset: int) -> int:
        return self.transport.read(0, offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.transport.write(0, offset, 4, value)

    def negotiate(self) -> None:
        """Acknowledge up to FEATURES_OK."""
        self.write(0x070, 0)
        self.write(0x070, 1)
        self.write(0x070, 3)
        for word in (0, 1):
            self.write(0x024, word)
            self.write(0x020, self.features >> 32 * word & 0xFFFFFFFF)
        self.write(0x070, 11)
        assert self.read(0x070) == 11

    def set_up_queues(self, size: int = 16) -> None:
        """Give every queue its rings."""
        self.queues = []
        for index in range(len(self.transport.queues)):
            queue = DriverQueue(self.memory, size, 0x10000 * (index + 1))
            queue.event_idx = bool(self.features & F_EVENT_IDX)
            self.memory.write(queue.base, bytes(queue.used + 6 + 8 * size - queue.base))
            self.write(0x030, index)
            assert self.read(0x034) >= size
            self.write(0x038, size)
            places = ((0x080, queue.desc), (0x090, queue.avail), (0x0A0, queue.used))
            for register, address in places:
                self.write(register, address & 0xFFFFFFFF)
                self.write(register + 4, address >> 32)
            self.write(0x044, 1)
            self.queues.append(queue)

    def start(self, size: int = 16) -> Driver:
        """The whole way to DRIVER_OK."""
        self.negotiate()
        self.set_up_queues(size)
        self.write(0x070, 15)
        return self

    def notify(self, queue: int = 0) -> None:
        self.write(0x050, queue)

    def interrupt(self) -> int:
        """What an interrupt handler does; the status it saw."""
        status = self.read(0x060)
        self.write(0x064, status)
        return status

    @property
    def needs_reset(self) -> bool:
        return bool(self.read(0x070) & 64)
