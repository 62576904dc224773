"""The device's side of a split virtqueue (virtio 1.2, section 2.7). Whatever the driver put there
is hostile.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

from kvm_core.errors import GuestError
from vmmuser.memory import BadAddressError, GuestMemory

F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4
TABLE_MAX = 1024  # descriptors in an indirect table
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

_DESC = struct.Struct("<QIHH")
_U16 = struct.Struct("<H")  # CPython moves these in one instruction on a little-endian host
_USED_ELEM = struct.Struct("<II")

_barrier_lock = threading.Lock()


def _full_barrier() -> None:
    """Order earlier stores before later loads, which x86 alone does not; the lock's locked
    instruction does.
    """
    with _barrier_lock:
        pass


class QueueError(GuestError):
    """The driver broke the rules; the device needs a reset."""


class Chain:
    """A descriptor chain: buffers that the device reads, then buffers that it writes."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int) -> None:
        """Start without buffers."""
        self.head = head
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []

    def writable_bytes(self) -> int:
        """How much the device may answer."""
        return sum(len(part) for part in self.writable)

    def read_all(self, limit: int) -> bytes:
        """Copy out at most `limit` bytes of what the driver sends."""
        out = bytearray()
        for part in self.readable:
            out += part[: limit - len(out)]
            if len(out) >= limit:
                break
        return bytes(out)

    def write_all(self, data: bytes) -> int:
        """Copy as much of `data` into the writable buffers as fits; how much that was."""
        done = 0
        for part in self.writable:
            take = min(len(part), len(data) - done)
            part[:take] = data[done : done + take]
            done += take
        return done


def split_front(parts: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """Cut buffers after `size` bytes, wherever the driver put the borders."""
    front: list[memoryview] = []
    for i, part in enumerate(parts):
        if len(part) >= size:
            front.append(part[:size])
            rest = parts[i + 1 :]
            return front, [part[size:], *rest] if len(part) > size else rest
        front.append(part)
        size -= len(part)
    return front, []


class Queue:
    """One virtqueue. The owner serialises calls."""

    def __init__(self, memory: GuestMemory, max_size: int) -> None:
        """`max_size` is a power of two, at most 32768."""
        self._memory = memory
        self.max_size = max_size
        self.reset()

    def reset(self) -> None:
        """Forget the driver's set-up."""
        self.size = self.max_size
        self.ready = False
        self.desc = self.avail = self.used = 0
        self.event_idx = False
        self._next_avail = 0
        self._next_used = 0
        self._signalled_used: int | None = None

    def set_ready(self, event_idx: bool) -> None:
        """Take the addresses that the driver gave. :raise QueueError: if they cannot be."""
        if not 0 < self.size <= self.max_size or self.size & (self.size - 1):
            raise QueueError(f"queue size {self.size}")
        if self.desc % 16 or self.avail % 2 or self.used % 4:
            raise QueueError("queue parts are not aligned")
        try:
            self._desc_table = self._memory.view(self.desc, 16 * self.size)
            self._avail_ring = self._memory.view(self.avail, 6 + 2 * self.size)
            self._used_ring = self._memory.view(self.used, 6 + 8 * self.size)
        except BadAddressError as error:
            raise QueueError(str(error)) from None
        self.event_idx = event_idx
        self._next_avail = self._next_used = 0
        self._signalled_used = None
        self.ready = True

    # -- taking -------------------------------------------------------------------------------

    def _avail_idx(self) -> int:
        return int(_U16.unpack_from(self._avail_ring, 2)[0])

    def pop(self) -> Chain | None:
        """Take the next chain, or None. :raise QueueError: if it is malformed."""
        if not self.ready:
            return None
        waiting = (self._avail_idx() - self._next_avail) & 0xFFFF
        if waiting == 0:
            return None
        if waiting > self.size:
            raise QueueError(f"{waiting} chains are available in a queue of {self.size}")
        at = 4 + 2 * (self._next_avail % self.size)
        head = int(_U16.unpack_from(self._avail_ring, at)[0])
        chain = self._walk(head)
        self._next_avail = (self._next_avail + 1) & 0xFFFF
        return chain

    def _walk(self, head: int) -> Chain:
        chain = Chain(head)
        total = 0
        for address, length, flags in self._descriptors(head):
            if length == 0:
                raise QueueError("a descriptor of length 0")
            total += length
            if total > 1 << 32:
                raise QueueError("a chain longer than 4 GiB")
            try:
                part = self._memory.view(address, length)
            except BadAddressError as error:
                raise QueueError(str(error)) from None
            if flags & F_WRITE:
                chain.writable.append(part)
            elif chain.writable:
                raise QueueError("a readable descriptor behind a writable one")
            else:
                chain.readable.append(part)
        return chain

    def _descriptors(self, head: int) -> Iterator[tuple[int, int, int]]:
        """Follow a chain, one level of indirection deep; no descriptor comes twice.

        A table of its own may be longer than the queue, as QEMU allows: drivers fill it by the
        device's seg_max, also where they have chosen a smaller queue.
        """
        table, entries, index, indirect = self._desc_table, self.size, head, False
        steps = 0
        while True:
            if index >= entries:
                raise QueueError(f"descriptor {index} of {entries}")
            steps += 1
            if steps > entries:
                raise QueueError("a descriptor chain longer than its table")
            address, length, flags, following = _DESC.unpack_from(table, 16 * index)
            if flags & F_INDIRECT:
                if indirect or flags & F_NEXT:
                    raise QueueError("an indirect descriptor inside a table or with a successor")
                if length == 0 or length % 16 or length // 16 > TABLE_MAX:
                    raise QueueError(f"an indirect table of {length} bytes")
                try:
                    table = self._memory.view(address, length)
                except BadAddressError as error:
                    raise QueueError(str(error)) from None
                entries, index, indirect, steps = length // 16, 0, True, 0
                continue
            yield address, length, flags
            if not flags & F_NEXT:
                return
            index = following

    # -- giving back --------------------------------------------------------------------------

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back; `written` bytes of it were filled."""
        at = 4 + 8 * (self._next_used % self.size)
        _USED_ELEM.pack_into(self._used_ring, at, chain.head, written)
        self._next_used = (self._next_used + 1) & 0xFFFF
        _U16.pack_into(self._used_ring, 2, self._next_used)  # stores stay in order on x86

    def should_interrupt(self) -> bool:
        """Say whether the driver wants to hear of what push gave back since the last time."""
        _full_barrier()
        if not self.event_idx:
            return not _U16.unpack_from(self._avail_ring, 0)[0] & AVAIL_NO_INTERRUPT
        old, self._signalled_used = self._signalled_used, self._next_used
        if old is None:
            return True
        event = int(_U16.unpack_from(self._avail_ring, 4 + 2 * self.size)[0])
        # Section 2.7.10: did used idx move past used_event?
        return (self._next_used - event - 1) & 0xFFFF < (self._next_used - old) & 0xFFFF

    def enable_notify(self) -> bool:
        """Ask to be told of the next chain; True if one is there already, and pop should go on."""
        if not self.ready:
            return False
        if self.event_idx:
            _U16.pack_into(self._used_ring, 4 + 8 * self.size, self._next_avail)
        else:
            _U16.pack_into(self._used_ring, 0, 0)
        _full_barrier()
        return self._avail_idx() != self._next_avail

    def disable_notify(self) -> None:
        """While chains are being taken, the driver need not notify (with event idx it will not)."""
        if self.ready and not self.event_idx:
            _U16.pack_into(self._used_ring, 0, USED_NO_NOTIFY)

    # -- state --------------------------------------------------------------------------------

    def save(self) -> dict[str, int | bool | None]:
        """Return the state as named fields."""
        return {
            "size": self.size,
            "ready": self.ready,
            "desc": self.desc,
            "avail": self.avail,
            "used": self.used,
            "event_idx": self.event_idx,
            "next_avail": self._next_avail,
            "next_used": self._next_used,
            "signalled_used": self._signalled_used,
        }

    def load(self, state: dict[str, int | bool | None]) -> None:
        """Take a state that save returned."""
        self.reset()
        self.size = int(state["size"] or 0)
        self.desc, self.avail = int(state["desc"] or 0), int(state["avail"] or 0)
        self.used = int(state["used"] or 0)
        if state["ready"]:
            self.set_ready(bool(state["event_idx"]))
        self._next_avail = int(state["next_avail"] or 0)
        self._next_used = int(state["next_used"] or 0)
        signalled = state["signalled_used"]
        self._signalled_used = None if signalled is None else int(signalled)
