"""Split virtqueues: layouts, event index, wrap-around; then hostile drivers, also by fuzz."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_core.errors import GuestError
from tests.device.driver import ALL_FEATURES, MEMORY, Driver, DriverQueue
from vmmuser.memory import BadAddressError, GuestMemory
from vmmuser.virtio.base import F_VERSION_1
from vmmuser.virtio.queue import F_INDIRECT, F_NEXT, F_WRITE, Queue, QueueError, split_front
from vmmuser.virtio.rng import VirtioRng

SIZE = 8


class Pair:
    """A driver's queue and the device's view of it."""

    def __init__(self, event_idx: bool = False) -> None:
        self.memory = GuestMemory([(0, MEMORY)])
        self.driver = DriverQueue(self.memory, SIZE, 0x10000, event_idx)
        self.device = Queue(self.memory, 64)
        self.device.size = SIZE
        self.device.desc, self.device.avail = self.driver.desc, self.driver.avail
        self.device.used = self.driver.used
        self.device.set_ready(event_idx)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_chain_with_both_directions(pair: Pair) -> None:
    pair.memory.write(0x20000, b"question")
    pair.driver.add([(0x20000, 8, False), (0x21000, 4, True), (0x22000, 4, True)])
    chain = pair.device.pop()
    assert chain is not None
    assert chain.read_all(100) == b"question"
    assert chain.read_all(3) == b"que"
    assert chain.writable_bytes() == 8
    assert chain.write_all(b"answer") == 6
    pair.device.push(chain, 6)
    assert pair.driver.completions() == [(0, 6)]
    assert pair.memory.read(0x21000, 4) + pair.memory.read(0x22000, 2) == b"answer"
    assert pair.device.pop() is None


def test_indirect_table(pair: Pair) -> None:
    pair.memory.write(0x20000, b"abcd")
    pair.driver.add_indirect(
        0x30000, [(0x20000, 2, False), (0x20002, 2, False), (0x21000, 1, True)]
    )
    chain = pair.device.pop()
    assert chain is not None
    assert (chain.read_all(9), chain.writable_bytes()) == (b"abcd", 1)


@pytest.mark.parametrize("count", [SIZE, SIZE + 1, 1024])
def test_indirect_table_as_long_as_the_queue_and_longer(pair: Pair, count: int) -> None:
    """Linux 6.12 fills a request of virtio-blk with as many segments as seg_max allows."""
    pair.driver.add_indirect(0x30000, [(0x20000, 1, True)] * count)
    chain = pair.device.pop()
    assert chain is not None
    assert chain.writable_bytes() == count


def test_indices_wrap(pair: Pair) -> None:
    for i in range(70000):
        pair.driver.next_desc = 0
        pair.driver.add([(0x20000, 1, True)])
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, i & 1)
        assert pair.driver.completions() == [(0, i & 1)]


def test_interrupt_suppression_by_flag(pair: Pair) -> None:
    for suppressed in (False, True):
        pair.driver.set_no_interrupt(suppressed)
        pair.driver.add([(0x20000, 1, True)])
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, 0)
        assert pair.device.should_interrupt() is not suppressed


def test_interrupts_by_used_event() -> None:
    pair = Pair(event_idx=True)
    interrupts = []
    for i in range(6):
        # used_event = 3: tell me when the fourth comes back
        pair.memory.write(pair.driver.avail + 4 + 2 * SIZE, struct.pack("<H", 3))
        pair.driver.add([(0x20000, 1, True)])
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, 0)
        if i == 0:
            assert pair.device.should_interrupt()  # the first time is always told
            continue
        interrupts.append(pair.device.should_interrupt())
    assert interrupts == [False, False, True, False, False]


def test_notifications_by_avail_event() -> None:
    pair = Pair(event_idx=True)
    pair.driver.add([(0x20000, 1, True)])
    assert pair.device.enable_notify()  # there is one already
    assert pair.device.pop()
    assert not pair.device.enable_notify()
    assert pair.driver.avail_event() == 1


def test_notifications_by_flag(pair: Pair) -> None:
    pair.device.disable_notify()
    assert pair.memory.read(pair.driver.used, 2) == b"\x01\x00"
    assert not pair.device.enable_notify()
    assert pair.memory.read(pair.driver.used, 2) == b"\x00\x00"


def test_split_front_cuts_anywhere() -> None:
    parts = [memoryview(b"abc"), memoryview(b"de"), memoryview(b"f")]
    for size in range(7):
        front, rest = split_front(parts, size)
        assert b"".join(front) == b"abcdef"[:size]
        assert b"".join(rest) == b"abcdef"[size:]


# -- hostile drivers ------------------------------------------------------------------------------


def refuse(pair: Pair, match: str) -> None:
    with pytest.raises(QueueError, match=match):
        pair.device.pop()


def test_loop(pair: Pair) -> None:
    pair.driver.put_desc(0, 0x20000, 1, F_NEXT, 1)
    pair.driver.put_desc(1, 0x20000, 1, F_NEXT, 0)
    pair.driver.publish(0)
    refuse(pair, "longer than its table")


def test_head_out_of_range(pair: Pair) -> None:
    pair.driver.publish(SIZE)
    refuse(pair, "descriptor 8 of 8")


def test_next_out_of_range(pair: Pair) -> None:
    pair.driver.put_desc(0, 0x20000, 1, F_NEXT, 0xFFFF)
    pair.driver.publish(0)
    refuse(pair, "descriptor 65535")


def test_too_many_available(pair: Pair) -> None:
    pair.memory.write(pair.driver.avail + 2, struct.pack("<H", SIZE + 1))
    refuse(pair, "9 chains")


@pytest.mark.parametrize(
    ("address", "length"), [(MEMORY, 1), (MEMORY - 1, 2), (1 << 63, 8), ((1 << 64) - 1, 2)]
)
def test_buffer_outside_memory(pair: Pair, address: int, length: int) -> None:
    pair.driver.put_desc(0, address, length, 0, 0)
    pair.driver.publish(0)
    refuse(pair, "not RAM")


def test_empty_buffer(pair: Pair) -> None:
    pair.driver.put_desc(0, 0x20000, 0, 0, 0)
    pair.driver.publish(0)
    refuse(pair, "length 0")


def test_readable_behind_writable(pair: Pair) -> None:
    pair.driver.put_desc(0, 0x20000, 1, F_NEXT | F_WRITE, 1)
    pair.driver.put_desc(1, 0x20000, 1, 0, 0)
    pair.driver.publish(0)
    refuse(pair, "readable descriptor behind")


@pytest.mark.parametrize("length", [0, 8, 17, 16 * 1025, 0x200000])
def test_odd_indirect_table(pair: Pair, length: int) -> None:
    pair.driver.put_desc(0, 0x20000, length, F_INDIRECT, 0)
    pair.driver.publish(0)
    refuse(pair, "indirect table")


def test_indirect_with_a_successor(pair: Pair) -> None:
    pair.driver.put_desc(0, 0x20000, 16, F_INDIRECT | F_NEXT, 1)
    pair.driver.publish(0)
    refuse(pair, "indirect descriptor")


def test_indirect_inside_indirect(pair: Pair) -> None:
    pair.memory.write(0x20000, struct.pack("<QIHH", 0x20000, 16, F_INDIRECT, 0))
    pair.driver.put_desc(0, 0x20000, 16, F_INDIRECT, 0)
    pair.driver.publish(0)
    refuse(pair, "inside a table")


def test_loop_inside_an_indirect_table(pair: Pair) -> None:
    pair.memory.write(0x20000, struct.pack("<QIHH", 0x21000, 16, F_NEXT, 0))
    pair.driver.put_desc(0, 0x20000, 16, F_INDIRECT, 0)
    pair.driver.publish(0)
    refuse(pair, "longer than its table")


def test_hostile_driver_is_counted_logged_once_and_not_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Driver(VirtioRng()).start()
    for _ in range(3):
        driver.queues[0].publish(0xFFFF)
        driver.notify()
        assert driver.needs_reset
        driver.write(0x070, 0)
        driver.start()
    assert driver.transport.errors >= 3
    assert len(caplog.records) == 1


descriptor = st.tuples(
    st.one_of(st.integers(0, MEMORY + 100), st.integers(0, 1 << 64 - 1)),
    st.one_of(st.integers(0, 300), st.integers(0, 0xFFFFFFFF)),
    st.integers(0, 7) | st.integers(0, 0xFFFF),
    st.integers(0, SIZE) | st.integers(0, 0xFFFF),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(descriptor, min_size=1, max_size=SIZE),
    st.lists(st.integers(0, SIZE) | st.integers(0, 0xFFFF), max_size=SIZE),
    st.integers(0, 0xFFFF),
    st.booleans(),
)
def test_any_rings_are_survived(
    descriptors: list[tuple[int, int, int, int]],
    heads: list[int],
    avail_idx: int,
    event_idx: bool,
) -> None:
    pair = Pair(event_idx)
    for index, (address, length, flags, following) in enumerate(descriptors):
        pair.driver.put_desc(index, address & (1 << 64) - 1, length, flags, following)
    for head in heads:
        pair.driver.publish(head)
    if not heads:
        pair.memory.write(pair.driver.avail + 2, struct.pack("<H", avail_idx))
    taken = 0
    try:
        while (chain := pair.device.pop()) is not None:
            taken += 1
            assert len(chain.readable) + len(chain.writable) <= SIZE
            pair.device.push(chain, chain.write_all(bytes(100)))
            pair.device.should_interrupt()
            pair.device.enable_notify()
    except QueueError:
        pass
    assert taken <= SIZE * 2


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 0x1FF), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1)
        ),
        max_size=40,
    )
)
def test_any_register_writes_are_survived(writes: list[tuple[int, int, int]]) -> None:
    driver = Driver(VirtioRng(), ALL_FEATURES)
    for offset, size, value in writes:
        if offset + size > 0x200:
            continue
        driver.transport.write(0, offset, size, value & (1 << 8 * size) - 1)
        driver.transport.read(0, offset, size)
    driver.write(0x070, 0)
    driver.features = F_VERSION_1
    driver.start()
    driver.queues[0].add([(0x80000, 8, True)])
    driver.notify()
    assert len(driver.queues[0].completions()) == 1


class TestMemory:
    def test_two_ranges(self) -> None:
        memory = GuestMemory([(0, 0x2000), (1 << 32, 0x1000)])
        memory.write((1 << 32) + 0xFF8, b"end here")
        assert memory.read((1 << 32) + 0xFF8, 8) == b"end here"
        for gpa, size in ((0x1FFF, 2), (0x2000, 1), ((1 << 32) + 0xFFF, 2), (-1, 1)):
            with pytest.raises(BadAddressError):
                memory.view(gpa, size)
        memory.close()

    def test_bad_address_is_the_guests_error(self) -> None:
        with pytest.raises(GuestError):
            GuestMemory([(0, 0x1000)]).read(0x1000, 1)
