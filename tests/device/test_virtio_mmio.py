"""The transport: registers, negotiation, queue set-up, interrupts, reset."""

from __future__ import annotations

import pytest

from tests.device.driver import ALL_FEATURES, Driver
from tests.device.fakes import Sink
from vmmuser.virtio.base import F_VERSION_1
from vmmuser.virtio.console import VirtioConsole
from vmmuser.virtio.rng import VirtioRng


def test_identity() -> None:
    driver = Driver(VirtioRng())
    assert driver.read(0x000).to_bytes(4, "little") == b"virt"
    assert driver.read(0x004) == 2
    assert driver.read(0x008) == 4
    assert driver.read(0x0B0) == 0xFFFFFFFF  # no shared memory


def test_only_aligned_dwords_are_registers() -> None:
    driver = Driver(VirtioRng())
    assert driver.transport.read(0, 0, 1) == 0
    assert driver.transport.read(0, 2, 4) == 0
    driver.transport.write(0, 0x070, 1, 1)
    assert driver.read(0x070) == 0


def test_features_come_in_two_words() -> None:
    driver = Driver(VirtioRng())
    words = []
    for word in (0, 1, 2):
        driver.write(0x014, word)
        words.append(driver.read(0x010))
    assert words == [0x30000000, 1, 0]


@pytest.mark.parametrize("features", [0, F_VERSION_1 | 1 << 5, F_VERSION_1 | 1 << 40])
def test_unacceptable_features_are_refused(features: int) -> None:
    driver = Driver(VirtioRng(), features)
    with pytest.raises(AssertionError):
        driver.negotiate()
    assert driver.read(0x070) & 8 == 0


def test_driver_ok_without_features_ok_needs_a_reset() -> None:
    driver = Driver(VirtioRng())
    driver.write(0x070, 7)
    assert driver.needs_reset


def test_a_request_and_its_interrupt() -> None:
    driver = Driver(VirtioRng()).start()
    queue = driver.queues[0]
    head = queue.add([(0x80000, 64, True)])
    driver.notify()
    assert queue.completions() == [(head, 64)]
    assert driver.memory.read(0x80000, 64) != bytes(64)
    assert driver.irq.edges == 1
    assert driver.interrupt() == 1
    assert driver.read(0x060) == 0


def test_nothing_is_served_before_driver_ok() -> None:
    driver = Driver(VirtioRng())
    driver.negotiate()
    driver.set_up_queues()
    driver.queues[0].add([(0x80000, 64, True)])
    driver.notify()
    assert driver.queues[0].completions() == []
    driver.write(0x070, 15)  # what is available is served at DRIVER_OK
    assert len(driver.queues[0].completions()) == 1


def test_a_live_queue_cannot_be_moved() -> None:
    driver = Driver(VirtioRng()).start()
    driver.write(0x030, 0)
    driver.write(0x080, 0xDEAD0)
    driver.write(0x038, 4)
    driver.queues[0].add([(0x80000, 8, True)])
    driver.notify()
    assert len(driver.queues[0].completions()) == 1
    driver.write(0x044, 0)
    assert driver.read(0x044) == 0


def test_queue_that_is_not_there() -> None:
    driver = Driver(VirtioRng())
    driver.write(0x030, 7)
    assert driver.read(0x034) == 0
    assert driver.read(0x044) == 0
    driver.write(0x044, 1)
    driver.write(0x050, 7)


@pytest.mark.parametrize(
    ("register", "value"), [(0x038, 3), (0x038, 1 << 20), (0x038, 0), (0x080, 8), (0x084, 1)]
)
def test_impossible_queues_need_a_reset(register: int, value: int) -> None:
    driver = Driver(VirtioRng())
    driver.negotiate()
    driver.write(0x030, 0)
    driver.write(0x038, 16)
    driver.write(register, value)
    driver.write(0x044, 1)
    assert driver.needs_reset
    assert driver.read(0x044) == 0


def test_reset_forgets_everything_and_heals() -> None:
    driver = Driver(VirtioRng()).start()
    driver.queues[0].publish(99)  # no such descriptor
    driver.notify()
    assert driver.needs_reset
    assert driver.interrupt() == 2  # a configuration change tells of it
    driver.write(0x070, 0)
    assert driver.read(0x070) == 0
    driver.start()
    driver.queues[0].add([(0x80000, 8, True)])
    driver.notify()
    assert len(driver.queues[0].completions()) == 1


def test_save_and_load_in_the_middle_of_work() -> None:
    driver = Driver(VirtioRng(), ALL_FEATURES).start()
    queue = driver.queues[0]
    for _ in range(5):
        queue.add([(0x80000, 8, True)])
        driver.notify()
    assert len(queue.completions()) == 5
    state = driver.transport.save()
    other = Driver(VirtioRng(), ALL_FEATURES)
    other.memory.write(0, driver.memory.read(0, 1 << 20))
    other.transport.load(state)
    assert other.transport.save() == state
    queue.memory = other.memory
    queue.add([(0x80000, 8, True)])
    other.notify()
    assert len(queue.completions()) == 1


def test_console_both_ways() -> None:
    sink = Sink()
    console = VirtioConsole(sink)
    driver = Driver(console).start()
    driver.memory.write(0x80000, b"hello, ")
    driver.memory.write(0x81000, b"world\n")
    driver.queues[1].add([(0x80000, 7, False), (0x81000, 6, False)])
    driver.notify(1)
    assert sink.data == b"hello, world\n"
    assert driver.queues[1].completions() == [(0, 0)]

    console.receive(b"abcdef")  # no buffers yet: it waits
    driver.queues[0].add([(0x90000, 4, True)])
    driver.queues[0].add([(0x90100, 64, True)])
    driver.notify(0)
    assert driver.queues[0].completions() == [(0, 4), (1, 2)]
    assert driver.memory.read(0x90000, 4) + driver.memory.read(0x90100, 2) == b"abcdef"


def test_console_input_is_bounded() -> None:
    console = VirtioConsole(Sink())
    Driver(console).start()
    for _ in range(40):
        console.receive(bytes(1 << 16))
    assert console._input_bytes <= 1 << 20


def test_console_gives_useless_buffers_back() -> None:
    console = VirtioConsole(Sink())
    driver = Driver(console).start()
    driver.memory.write(0x80000, b"xx")
    driver.queues[0].add([(0x80000, 2, False)])  # readable, in the receive queue
    console.receive(b"a")
    driver.notify(0)
    assert driver.queues[0].completions() == [(0, 0)]
    driver.queues[0].add([(0x90000, 2, True)])
    driver.notify(0)
    assert driver.memory.read(0x90000, 1) == b"a"


def test_a_held_transport_leaves_memory_alone() -> None:
    driver = Driver(VirtioRng()).start()
    queue = driver.queues[0]
    driver.transport.hold()
    head = queue.add([(0x80000, 64, True)])
    driver.notify()
    assert queue.completions() == []
    assert driver.memory.read(0x80000, 64) == bytes(64)
    driver.transport.release()
    assert queue.completions() == [(head, 64)]
