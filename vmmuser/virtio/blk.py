"""virtio-blk (virtio 1.2, section 5.2): requests of the driver, carried out on an image."""

from __future__ import annotations

import struct
import time
from typing import Protocol

from kvm_core.errors import BackendError
from vmmuser.log import Log
from vmmuser.virtio.base import Host
from vmmuser.virtio.queue import Chain, QueueError, split_front

log = Log("kvmish.virtio")

F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
F_CONFIG_WCE, F_DISCARD, F_WRITE_ZEROES = 1 << 11, 1 << 13, 1 << 14

T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2

SECTOR = 512
QUEUE_SIZE = 128
MAX_RANGE_SECTORS = (1 << 31) // SECTOR  # of one discard or write-zeroes segment
MAX_RANGES = 1

_HEADER = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")


class Image(Protocol):
    """What the device needs of a disk image; errors are OSError."""

    sectors: int
    read_only: bool

    def read(self, parts: list[memoryview], offset: int) -> None:
        """Fill the buffers."""

    def write(self, parts: list[memoryview], offset: int) -> None:
        """Write the buffers out."""

    def flush(self) -> None:
        """Make what was written durable."""

    def discard(self, offset: int, size: int) -> None:
        """The range is not needed."""

    def write_zeroes(self, offset: int, size: int, unmap: bool) -> None:
        """The range reads as zeroes."""


class Counters:
    """What a disk has done, successful requests only; named as QMP's BlockDeviceStats."""

    def __init__(self) -> None:
        """Start at 0."""
        self.rd_bytes = self.rd_operations = self.rd_total_time_ns = 0
        self.wr_bytes = self.wr_operations = self.wr_total_time_ns = 0
        self.flush_operations = self.flush_total_time_ns = 0

    def count(self, kind: int, size: int, began_ns: int) -> None:
        """Add a request that began at this time of the monotonic clock."""
        took = time.monotonic_ns() - began_ns
        if kind == T_IN:
            self.rd_bytes += size
            self.rd_operations += 1
            self.rd_total_time_ns += took
        elif kind == T_OUT:
            self.wr_bytes += size
            self.wr_operations += 1
            self.wr_total_time_ns += took
        elif kind == T_FLUSH:
            self.flush_operations += 1
            self.flush_total_time_ns += took


class VirtioBlk:
    """One disk, one queue."""

    device_id = 2
    queue_sizes = (QUEUE_SIZE,)
    threaded = True

    def __init__(self, image: Image, serial: str = "") -> None:
        """`serial` is what GET_ID answers, at most 20 bytes."""
        self._image = image
        self._serial = serial.encode()[:20].ljust(20, b"\0")
        self.features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_CONFIG_WCE
        self.features |= F_RO if image.read_only else F_DISCARD | F_WRITE_ZEROES
        self._failures = 0
        self._agreed = 0
        self._write_back = 1
        self.counters = Counters()

    def connect(self, host: Host) -> None:
        """See VirtioDevice."""
        self._host = host

    def read_config(self) -> bytes:
        """See VirtioDevice; the layout of section 5.2.4."""
        config = struct.pack("<QIIHBBI", self._image.sectors, 0, QUEUE_SIZE - 2, 0, 0, 0, SECTOR)
        config += bytes((0, 0)) + struct.pack("<HI", 0, 0)  # topology, not offered
        config += bytes((self._write_back, 0)) + struct.pack("<H", 1)
        config += struct.pack("<III", MAX_RANGE_SECTORS, MAX_RANGES, 1)  # discard
        config += struct.pack("<II", MAX_RANGE_SECTORS, MAX_RANGES) + bytes((1, 0, 0, 0))
        return config

    def write_config(self, offset: int, data: bytes) -> None:
        """See VirtioDevice; only `writeback` can be written."""
        if offset == 32 and self._agreed & F_CONFIG_WCE:
            self._write_back = data[0] & 1

    def activate(self, features: int) -> None:
        """See VirtioDevice; a driver that does not know FLUSH gets write-through (section
        5.2.5.2).
        """
        self._agreed = features
        if not features & F_FLUSH:
            self._write_back = 0

    def reset(self) -> None:
        """See VirtioDevice."""
        self._agreed = 0
        self._write_back = 1

    def serve(self) -> None:
        """See VirtioDevice."""
        queue = self._host.queues[0]
        while True:
            queue.disable_notify()
            while (chain := queue.pop()) is not None:
                written = self._request(chain)
                queue.push(chain, written)
                self._host.used(0)
            if not queue.enable_notify():
                return

    def _request(self, chain: Chain) -> int:
        """Carry out one request; bytes written into the chain, the status byte included."""
        answer_bytes = chain.writable_bytes() - 1
        if answer_bytes < 0:
            raise QueueError("a block request without room for its status")
        head, data_out = split_front(chain.readable, _HEADER.size)
        header = b"".join(head)
        if len(header) < _HEADER.size:
            raise QueueError("a block request without a whole header")
        kind, _, sector = _HEADER.unpack(header)
        data_in, status_part = split_front(chain.writable, answer_bytes)
        began_ns = time.monotonic_ns()
        try:
            status = self._execute(kind, sector, data_out, data_in, answer_bytes)
            if status == S_OK:
                size = answer_bytes if kind == T_IN else sum(map(len, data_out))
                self.counters.count(kind, size, began_ns)
        except (OSError, BackendError) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("disk: %s; the guest is told of an I/O error", error)
            status = S_IOERR
        status_part[0][0] = status
        return answer_bytes + 1

    def _execute(
        self,
        kind: int,
        sector: int,
        data_out: list[memoryview],
        data_in: list[memoryview],
        in_bytes: int,
    ) -> int:
        """Return the status."""
        if kind == T_IN:
            if not self._in_range(sector, in_bytes):
                return S_IOERR
            self._image.read([part for part in data_in if len(part)], sector * SECTOR)
            return S_OK
        if kind == T_OUT:
            size = sum(len(part) for part in data_out)
            if self._image.read_only or not self._in_range(sector, size):
                return S_IOERR
            self._image.write(data_out, sector * SECTOR)
            if not self._write_back:
                self._image.flush()
            return S_OK
        if kind == T_FLUSH:
            self._image.flush()
            return S_OK
        if kind == T_GET_ID:
            at = 0
            for part in data_in:
                piece = self._serial[at : at + len(part)]
                part[: len(piece)] = piece
                at += len(piece)
            return S_OK
        if kind in (T_DISCARD, T_WRITE_ZEROES):
            return self._ranges(kind, data_out)
        return S_UNSUPP

    def _in_range(self, sector: int, size: int) -> bool:
        return size % SECTOR == 0 and sector + size // SECTOR <= self._image.sectors

    def _ranges(self, kind: int, data_out: list[memoryview]) -> int:
        needed = F_DISCARD if kind == T_DISCARD else F_WRITE_ZEROES
        if not self._agreed & needed:
            return S_UNSUPP
        size = sum(len(part) for part in data_out)
        if size == 0 or size % _RANGE.size or size // _RANGE.size > MAX_RANGES:
            return S_IOERR
        raw = b"".join(data_out)
        for sector, count, flags in _RANGE.iter_unpack(raw):
            unmap = bool(flags & 1)
            if flags & ~1 or (kind == T_DISCARD and unmap):
                return S_UNSUPP
            if count > MAX_RANGE_SECTORS or not self._in_range(sector, count * SECTOR):
                return S_IOERR
            if kind == T_DISCARD:
                self._image.discard(sector * SECTOR, count * SECTOR)
            else:
                self._image.write_zeroes(sector * SECTOR, count * SECTOR, unmap)
        if not self._write_back:
            self._image.flush()
        return S_OK
