"""kvm_core.api over a door that plays back: exits, coalesced ring, growing lists, stats."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from kvm_core import abi, exits
from kvm_core.api import CoalescedWrite, Kvm, Vcpu, Vm

SIZE = 3 * abi.PAGE_SIZE
RING = 2 * abi.PAGE_SIZE


class PlayedDoor:
    """Answers requests from a table of functions; KVM_RUN returns what the test says."""

    name, engine = "played", "none"

    def __init__(self) -> None:
        self.answers: dict[int, Callable[[Any], int]] = {
            abi.KVM_GET_VCPU_MMAP_SIZE: lambda _: SIZE,
            abi.KVM_CREATE_VM: lambda _: 11,
            abi.KVM_CREATE_VCPU: lambda _: 12,
        }
        self.run_result = 0
        self.closed: list[int] = []

    def open(self) -> int:
        return 10

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        return self.answers[request](arg)

    def runner(self, fd: int, shared: mmap.mmap, answers: Any) -> Callable[[], int]:
        return lambda: self.run_result

    def mmap(self, fd: int, size_bytes: int) -> mmap.mmap:
        return mmap.mmap(-1, size_bytes)

    def kick(self, fd: int) -> None: ...

    def close(self, fd: int) -> None:
        self.closed.append(fd)


class Machine:
    def __init__(self) -> None:
        self.door = PlayedDoor()
        self.kvm = Kvm(self.door)
        self.vm: Vm = self.kvm.create_vm()
        self.vcpu: Vcpu = self.vm.create_vcpu(0)

    def leave(self, reason: int, payload: bytes = b"") -> exits.VcpuExit:
        struct.pack_into("<I", self.vcpu.map, 8, reason)
        self.vcpu.map[32 : 32 + len(payload)] = payload
        return self.vcpu.run()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_port_in_is_answered_in_place(machine: Machine) -> None:
    event = machine.leave(abi.Exit.IO, struct.pack("<BBHIQ", 0, 2, 0x3F8, 3, 4096))
    assert isinstance(event, exits.IoExit)
    assert (event.port, event.size, event.count, event.is_write) == (0x3F8, 2, 3, False)
    event.data[:] = b"abcdef"
    assert machine.vcpu.map[4096:4102] == b"abcdef"


def test_mmio(machine: Machine) -> None:
    payload = struct.pack("<Q8sIB", 0xFEB00050, b"\1\2\3\4", 4, 1)
    event = machine.leave(abi.Exit.MMIO, payload)
    assert isinstance(event, exits.MmioExit)
    assert (event.gpa, event.size, event.is_write) == (0xFEB00050, 4, True)
    assert bytes(event.data) == b"\1\2\3\4"


@pytest.mark.parametrize(
    ("reason", "payload", "event"),
    [
        (abi.Exit.HLT, b"", exits.Hlt()),
        (abi.Exit.SHUTDOWN, b"", exits.Shutdown()),
        (abi.Exit.INTR, b"", exits.Interrupted()),
        (abi.Exit.IRQ_WINDOW_OPEN, b"", exits.IrqWindowOpen()),
        (abi.Exit.FAIL_ENTRY, struct.pack("<QI", 7, 3), exits.FailEntry(7, 3)),
        (abi.Exit.INTERNAL_ERROR, struct.pack("<IIQQ", 1, 2, 5, 6), exits.InternalError(1, (5, 6))),
        (abi.Exit.DEBUG, struct.pack("<IIQQQ", 1, 0, 9, 8, 7), exits.Debug(1, 9, 8, 7)),
        (abi.Exit.SYSTEM_EVENT, struct.pack("<IIQ", 2, 1, 4), exits.SystemEvent(2, (4,))),
        (abi.Exit.IOAPIC_EOI, b"\x33", exits.IoapicEoi(0x33)),
        (abi.Exit.X86_RDMSR, struct.pack("<QIIQ", 0, 2, 0x10, 0), exits.Rdmsr(0x10, 2)),
        (abi.Exit.X86_WRMSR, struct.pack("<QIIQ", 0, 4, 0x10, 9), exits.Wrmsr(0x10, 9, 4)),
        (
            abi.Exit.HYPERCALL,
            struct.pack("<8QI", 12, 1, 2, 3, 4, 5, 6, 0, 1),
            exits.Hypercall(12, (1, 2, 3, 4, 5, 6), True),
        ),
        (99, b"", exits.OtherExit(99)),
    ],
)
def test_other_exits(machine: Machine, reason: int, payload: bytes, event: exits.VcpuExit) -> None:
    assert machine.leave(reason, payload) == event


def test_hostile_counts_are_bounded(machine: Machine) -> None:
    event = machine.leave(abi.Exit.INTERNAL_ERROR, struct.pack("<II", 1, 0xFFFFFFFF))
    assert isinstance(event, exits.InternalError)
    assert len(event.data) == 16


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_interrupted(machine: Machine, number: int) -> None:
    machine.door.run_result = -number
    assert machine.vcpu.run() == exits.Interrupted()


def test_run_fails(machine: Machine) -> None:
    machine.door.run_result = -errno.ENOEXEC
    with pytest.raises(OSError, match=r"Exec format"):
        machine.vcpu.run()


def test_immediate_exit_is_a_byte_of_kvm_run(machine: Machine) -> None:
    machine.vcpu.set_immediate_exit(True)
    assert machine.vcpu.map[1] == 1
    machine.vcpu.set_immediate_exit(False)
    assert machine.vcpu.map[1] == 0


class TestRing:
    def fill(self, machine: Machine, first: int, last: int) -> None:
        struct.pack_into("<II", machine.vcpu.map, RING, first, last)
        for i in range(170):
            self.put(machine, i, 0x1000 + i, 4, i & 1, i)

    def put(self, machine: Machine, i: int, *entry: int) -> None:
        struct.pack_into("<QIIQ", machine.vcpu.map, RING + 8 + 24 * i, *entry)

    def test_order_and_wrap(self, machine: Machine) -> None:
        self.fill(machine, 168, 2)
        assert machine.vm.coalesced_pending()
        writes = machine.vm.drain_coalesced()
        assert [w.address - 0x1000 for w in writes] == [168, 169, 0, 1]
        assert writes[1] == CoalescedWrite(0x1000 + 169, 4, True, struct.pack("<I", 169))
        assert not machine.vm.coalesced_pending()
        assert machine.vm.drain_coalesced() == []

    def test_writes_to_one_place_come_as_one(self, machine: Machine) -> None:
        self.fill(machine, 168, 3)
        for i, port, byte in ((168, 0x3F8, b"a"), (169, 0x3F8, b"b"), (0, 0x3F8, b"c"),
                              (1, 0x3F9, b"d"), (2, 0x3F8, b"e")):  # fmt: skip
            self.put(machine, i, port, 1, 1, ord(byte))
        assert machine.vm.drain_coalesced() == [
            CoalescedWrite(0x3F8, 1, True, b"abc"),
            CoalescedWrite(0x3F9, 1, True, b"d"),
            CoalescedWrite(0x3F8, 1, True, b"e"),
        ]

    @pytest.mark.parametrize(("first", "last"), [(500, 3), (0, 500), (0xFFFFFFFF, 0)])
    def test_nonsense_ends(self, machine: Machine, first: int, last: int) -> None:
        self.fill(machine, first, last)
        assert len(machine.vm.drain_coalesced()) <= 170

    def test_without_vcpu(self) -> None:
        kvm = Kvm(PlayedDoor())
        assert kvm.create_vm().drain_coalesced() == []


def test_lists_grow_until_they_fit(machine: Machine) -> None:
    asked = []

    def answer(arg: bytearray) -> int:
        (count,) = struct.unpack_from("<I", arg)
        asked.append(count)
        if count < 200:
            raise OSError(errno.E2BIG, "")
        struct.pack_into("<I200I", arg, 0, 200, *range(200))
        return 0

    machine.door.answers[abi.KVM_GET_MSR_INDEX_LIST] = answer
    assert machine.kvm.get_msr_index_list() == list(range(200))
    assert asked == [64, 128, 256]


def test_a_list_that_never_fits(machine: Machine) -> None:
    def answer(arg: bytearray) -> int:
        raise OSError(errno.E2BIG, "")

    machine.door.answers[abi.KVM_GET_SUPPORTED_CPUID] = answer
    with pytest.raises(OSError, match=r"E2BIG|7"):
        machine.kvm.get_supported_cpuid()


def test_stats(machine: Machine) -> None:
    names = [(b"exits", 0, 1, 5), (b"histogram", 3, 4, 0), (b"instructions", 0, 1, 1 << 40)]
    head = struct.pack("<6I", 0, 48, 3, 24, 72, 72 + 3 * 64)
    descs = b"".join(
        struct.pack("<IhHII48s", kind, 0, size, 8 * i, 0, name)
        for i, (name, kind, size, _) in enumerate(names)
    )
    data = b"".join(struct.pack("<Q", value) for *_, value in names)
    fd = os.memfd_create("stats")
    os.write(fd, head + bytes(48) + descs + data)
    machine.door.answers[abi.KVM_GET_STATS_FD] = lambda _: os.dup(fd)
    reader = machine.vcpu.open_stats()
    assert reader.read() == {"exits": 5, "instructions": 1 << 40}
    reader.close()
    reader.close()
    os.close(fd)


def test_close_once(machine: Machine) -> None:
    for _ in range(2):
        machine.vcpu.close()
        machine.vm.close()
        machine.kvm.close()
    assert machine.door.closed == [12, 11, 10]
