"""The KVM ABI as its clients meet it: answers, errno and their order, on every door.

Each case runs on the core in this process and, where the host has one, on a real /dev/kvm, and must
get the same answers there. tools/abi_differences.py lists what differs on purpose, with the reason.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from kvm_core.door import DeviceDoor, DirectDoor, Door
from tools.abi_differences import CAPABILITIES, LAST_CAPABILITY

PAGE = 4096
BAD_POINTER = 0x1000


def ioc(direction: int, number: int, size: int) -> int:
    """Compose a request as _IOC() does; direction: 0 none, 1 write, 2 read, 3 both."""
    return direction << 30 | size << 16 | 0xAE << 8 | number


GET_API_VERSION, CREATE_VM, CHECK_EXTENSION = ioc(0, 0, 0), ioc(0, 1, 0), ioc(0, 3, 0)
GET_VCPU_MMAP_SIZE, CREATE_VCPU, RUN = ioc(0, 4, 0), ioc(0, 0x41, 0), ioc(0, 0x80, 0)
GET_SUPPORTED_CPUID, GET_MSR_INDEX_LIST = ioc(3, 5, 8), ioc(3, 2, 4)
SET_USER_MEMORY_REGION, GET_DIRTY_LOG, CLEAR_DIRTY_LOG = (
    ioc(1, 0x46, 32),
    ioc(1, 0x42, 16),
    ioc(3, 0xC0, 24),
)
SET_TSS_ADDR, SET_IDENTITY_MAP_ADDR, SET_BOOT_CPU_ID = (
    ioc(0, 0x47, 0),
    ioc(1, 0x48, 8),
    ioc(0, 0x78, 0),
)
CREATE_IRQCHIP, IRQ_LINE, IRQ_LINE_STATUS = ioc(0, 0x60, 0), ioc(1, 0x61, 8), ioc(3, 0x67, 8)
GET_IRQCHIP, SET_IRQCHIP = ioc(3, 0x62, 520), ioc(2, 0x63, 520)
CREATE_PIT2, GET_PIT2, REINJECT_CONTROL = ioc(1, 0x77, 64), ioc(2, 0x9F, 112), ioc(0, 0x71, 0)
SET_GSI_ROUTING, SIGNAL_MSI = ioc(1, 0x6A, 8), ioc(1, 0xA5, 32)
IRQFD, IOEVENTFD, ENABLE_CAP = ioc(1, 0x76, 32), ioc(1, 0x79, 64), ioc(1, 0xA3, 104)
REGISTER_COALESCED, UNREGISTER_COALESCED = ioc(1, 0x67, 16), ioc(1, 0x68, 16)
GET_CLOCK, SET_CLOCK, CREATE_DEVICE = ioc(2, 0x7C, 48), ioc(1, 0x7B, 48), ioc(3, 0xE0, 12)
X86_SET_MSR_FILTER = ioc(1, 0xC6, 4 + 4 + 16 * 24)
GET_REGS, SET_REGS, GET_SREGS, SET_SREGS = (
    ioc(2, 0x81, 144),
    ioc(1, 0x82, 144),
    ioc(2, 0x83, 312),
    ioc(1, 0x84, 312),
)
INTERRUPT, NMI, SMI, TRANSLATE = ioc(1, 0x86, 4), ioc(0, 0x9A, 0), ioc(0, 0xB7, 0), ioc(3, 0x85, 24)
GET_MSRS, SET_MSRS, SET_CPUID2, GET_CPUID2 = (
    ioc(3, 0x88, 8),
    ioc(1, 0x89, 8),
    ioc(1, 0x90, 8),
    ioc(3, 0x91, 8),
)
SET_SIGNAL_MASK, GET_MP_STATE, SET_MP_STATE = ioc(1, 0x8B, 4), ioc(2, 0x98, 4), ioc(1, 0x99, 4)
GET_LAPIC, SET_LAPIC = ioc(2, 0x8E, 1024), ioc(1, 0x8F, 1024)
GET_VCPU_EVENTS, SET_VCPU_EVENTS = ioc(2, 0x9F, 64), ioc(1, 0xA0, 64)
GET_DEBUGREGS, SET_DEBUGREGS = ioc(2, 0xA1, 128), ioc(1, 0xA2, 128)
GET_XCRS, SET_XCRS, GET_XSAVE = ioc(2, 0xA6, 392), ioc(1, 0xA7, 392), ioc(2, 0xA4, 4096)
SETUP_MCE, TPR_ACCESS_REPORTING, SET_VAPIC_ADDR = ioc(1, 0x9C, 8), ioc(3, 0x92, 40), ioc(1, 0x93, 8)
KVMCLOCK_CTRL, GET_STATS_FD, GET_TSC_KHZ = ioc(0, 0xAD, 0), ioc(0, 0xCE, 0), ioc(0, 0xA3, 0)

Arg = int | bytes | bytearray


class Client:
    """A program that speaks raw ioctls through one door; answers are values or -errno."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.fds: list[int] = []
        self.keep: list[object] = []
        self.system = self.own(door.open())

    def own(self, fd: int) -> int:
        """Close it at the end."""
        self.fds.append(fd)
        return fd

    def call(self, fd: int, request: int, arg: Arg = 0) -> int:
        """Return what the ioctl returns, or -errno."""
        what = bytearray(arg) if isinstance(arg, bytes) else arg
        try:
            return self.door.ioctl(fd, request, what)
        except OSError as error:
            return -(error.errno or 0)

    def vm(self, *, irqchip: bool = False) -> int:
        """Create a VM, with the in-kernel interrupt controllers or without."""
        vm = self.own(self.call(self.system, CREATE_VM))
        assert vm >= 0
        if irqchip:
            assert self.call(vm, CREATE_IRQCHIP) == 0
        return vm

    def vcpu(self, vm: int, number: int = 0) -> int:
        """Create a vCPU."""
        return self.own(self.call(vm, CREATE_VCPU, number))

    def memory(self, pages: int) -> int:
        """Return the address of anonymous memory."""
        area = mmap.mmap(-1, pages * PAGE)
        self.keep.append(area)
        view = (ctypes.c_char * len(area)).from_buffer(area)
        self.keep.append(view)
        return ctypes.addressof(view)

    def slot(self, vm: int, slot: int, gpa: int, size: int, host: int, flags: int = 0) -> int:
        """KVM_SET_USER_MEMORY_REGION."""
        return self.call(
            vm, SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", slot, flags, gpa, size, host)
        )

    def close(self) -> None:
        """Close everything, newest first."""
        for fd in reversed(self.fds):
            self.door.close(fd)


def _real_kvm() -> bool:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@pytest.fixture(params=["direct", pytest.param("/dev/kvm", marks=pytest.mark.host_kvm)])
def client(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Client]:
    """A client on each door."""
    if request.param == "direct":
        door: Door = DirectDoor()
    else:
        need(_real_kvm(), "a /dev/kvm of the host's")
        door = DeviceDoor(request.param)
    one = Client(door)
    yield one
    one.close()


E2BIG, EBADF, EBUSY, EEXIST = -errno.E2BIG, -errno.EBADF, -errno.EBUSY, -errno.EEXIST
EFAULT, EINVAL, ENODEV, ENOENT = -errno.EFAULT, -errno.EINVAL, -errno.ENODEV, -errno.ENOENT
ENOTTY, ENXIO, EINTR, EAGAIN = -errno.ENOTTY, -errno.ENXIO, -errno.EINTR, -errno.EAGAIN


def test_system_descriptor(client: Client) -> None:
    call = client.call
    assert call(client.system, GET_API_VERSION) == 12
    assert call(client.system, GET_API_VERSION, 1) == EINVAL
    assert call(client.system, GET_VCPU_MMAP_SIZE) == 3 * PAGE
    assert call(client.system, GET_VCPU_MMAP_SIZE, 1) == EINVAL
    assert call(client.system, CREATE_VM, 1 << 20) == EINVAL
    assert call(client.system, ioc(0, 0x7F, 0)) == EINVAL
    assert call(client.system, CREATE_VCPU) == EINVAL  # a VM's request
    assert call(client.system, GET_REGS, bytes(144)) == EINVAL


def test_growth_loops(client: Client) -> None:
    """E2BIG: the MSR list tells the count that it needs, the CPUID call does not."""
    head = bytearray(struct.pack("=II", 1, 0) + bytes(40))
    assert client.call(client.system, GET_SUPPORTED_CPUID, head) == E2BIG
    assert client.call(client.system, GET_SUPPORTED_CPUID, bytes(8)) == E2BIG
    room = bytearray(struct.pack("=I", 0))
    assert client.call(client.system, GET_MSR_INDEX_LIST, room) == E2BIG
    (count,) = struct.unpack("=I", room)
    assert count > 10
    room = bytearray(struct.pack("=I", count) + bytes(4 * count))
    assert client.call(client.system, GET_MSR_INDEX_LIST, room) == 0
    indices = struct.unpack(f"={count}I", room[4:])
    assert len(set(indices)) == count
    assert 0x10 in indices
    assert 0xC0000081 in indices
    assert client.call(client.system, GET_MSR_INDEX_LIST, BAD_POINTER) == EFAULT
    assert client.call(client.system, GET_SUPPORTED_CPUID, BAD_POINTER) == EFAULT


def test_index_list_agrees_with_msrs(client: Client) -> None:
    """Every MSR of the list can be read, and written back with the value read."""
    room = bytearray(struct.pack("=I", 1000) + bytes(4000))
    assert client.call(client.system, GET_MSR_INDEX_LIST, room) == 0
    (count,) = struct.unpack_from("=I", room)
    indices = struct.unpack_from(f"={count}I", room, 4)
    vm = client.vm(irqchip=True)
    vcpu = client.vcpu(vm)
    cpuid = bytearray(struct.pack("=II", 256, 0) + bytes(40 * 256))
    assert client.call(client.system, GET_SUPPORTED_CPUID, cpuid) == 0
    (entries,) = struct.unpack_from("=I", cpuid)
    assert client.call(vcpu, SET_CPUID2, cpuid[: 8 + 40 * entries]) == 0
    refused = []
    for index in indices:
        one = bytearray(struct.pack("=IIIIQ", 1, 0, index, 0, 0))
        if client.call(vcpu, GET_MSRS, one) != 1 or client.call(vcpu, SET_MSRS, one) != 1:
            refused.append(hex(index))
    if client.door.name == "direct":
        assert not refused


def test_capabilities(client: Client) -> None:
    """Values on both descriptors; a real KVM has the same, but for INTENDED."""
    vm = client.vm()
    expected = {
        0: 1, 1: 1, 3: 1, 4: 1, 7: 1, 10: 32764, 11: 1, 14: 1, 15: 2, 21: 1, 22: 1, 23: 1,
        25: 4096, 26: 1, 30: 1, 31: 32, 32: 1, 33: 1, 34: 1, 35: 1, 36: 1, 37: 1, 40: 1, 41: 1,
        50: 1, 51: 1, 55: 1, 56: 1, 61: 1, 66: 1024, 72: 1, 74: 7, 76: 1, 77: 1, 81: 1, 82: 1,
        97: 1, 98: 1, 100: 1, 105: 1, 116: 1, 121: 1, 122: 1, 127: 1, 128: 4096, 136: 1, 153: 1,
        159: 1, 162: 1, 164: 1, 168: 3, 184: 1, 187: 1, 188: 1, 189: 1, 190: 1, 200: 1, 203: 1,
        204: 1, 209: 1, 215: 1, 218: 1, 5: 0, 13: 0, 1000: 0,
    }  # fmt: skip
    for cap, value in expected.items():
        assert client.call(client.system, CHECK_EXTENSION, cap) == value, cap
        assert client.call(vm, CHECK_EXTENSION, cap) == value, cap
    assert not set(expected) & set(CAPABILITIES)


def test_other_capabilities(client: Client) -> None:
    """Each that Linux 6.1 knows has the same value on every door, or a reason not to."""
    core = DirectDoor()
    system = core.open()
    try:
        ours = {n: core.ioctl(system, CHECK_EXTENSION, n) for n in range(LAST_CAPABILITY + 1)}
    finally:
        core.close(system)
    theirs = {n: client.call(client.system, CHECK_EXTENSION, n) for n in ours}
    assert {n for n in ours if ours[n] != theirs[n]} <= set(CAPABILITIES)


def test_vm_requests_out_of_order(client: Client) -> None:
    vm = client.vm()
    call = client.call
    assert call(vm, ioc(0, 0x7F, 0)) == ENOTTY
    assert call(vm, GET_REGS, bytes(144)) == ENOTTY
    assert call(vm, IRQ_LINE, struct.pack("=II", 0, 1)) == ENXIO
    assert call(vm, GET_IRQCHIP, bytes(520)) == ENXIO
    assert call(vm, CREATE_PIT2, bytes(64)) == ENOENT
    assert call(vm, GET_PIT2, bytes(112)) == ENXIO
    assert call(vm, SET_GSI_ROUTING, bytes(8)) == EINVAL
    assert call(vm, SIGNAL_MSI, bytes(32)) == EINVAL
    assert call(vm, IRQFD, struct.pack("=IIII16x", 0, 0, 0, 0)) == EINVAL
    assert call(vm, CREATE_IRQCHIP) == 0
    assert call(vm, CREATE_IRQCHIP) == EEXIST
    assert call(vm, CREATE_PIT2, struct.pack("=I60x", 0x80)) == 0  # unknown flags are not looked at
    assert call(vm, CREATE_PIT2, bytes(64)) == EEXIST
    assert call(vm, IRQ_LINE, struct.pack("=II", 4, 1)) == 0
    assert call(vm, IRQ_LINE, BAD_POINTER) == EFAULT
    assert call(vm, GET_IRQCHIP, struct.pack("=II512x", 3, 0)) == EINVAL
    assert call(vm, SET_GSI_ROUTING, struct.pack("=II", 4097, 0)) == EINVAL
    assert call(vm, SET_GSI_ROUTING, struct.pack("=II", 0, 1)) == EINVAL
    assert call(vm, CREATE_DEVICE, struct.pack("=III", 99, 0, 0)) == ENODEV


def test_irqchip_after_vcpu(client: Client) -> None:
    vm = client.vm()
    client.vcpu(vm)
    assert client.call(vm, CREATE_IRQCHIP) == EINVAL
    split = struct.pack("=II4Q64x", 121, 0, 24, 0, 0, 0)
    assert client.call(vm, ENABLE_CAP, split) == EEXIST
    assert client.call(vm, SET_IDENTITY_MAP_ADDR, struct.pack("=Q", 0xFEFFC000)) == EINVAL
    assert client.call(vm, SET_BOOT_CPU_ID, 1) == EBUSY


def test_split_irqchip_of_more_pins_than_one_ioapic_has(client: Client) -> None:
    def enable(vm: int, pins: int) -> int:
        return client.call(vm, ENABLE_CAP, struct.pack("=II4Q64x", 121, 0, pins, 0, 0, 0))

    vm = client.vm()
    assert enable(vm, 4097) == EINVAL
    assert enable(vm, 120) == 0  # libkrun's
    assert enable(client.vm(), 4096) == 0


def test_translate_without_paging(client: Client) -> None:
    vcpu = client.vcpu(client.vm())
    for linear, valid in ((0x10000, 1), (2**64 - 1, 0)):
        into = bytearray(struct.pack("=Q16x", linear))
        assert client.call(vcpu, TRANSLATE, into) == 0
        assert struct.unpack_from("=QQB", into) == (linear, linear, valid)


def test_create_vcpu(client: Client) -> None:
    vm = client.vm()
    assert client.call(vm, CREATE_VCPU, 4096) == EINVAL
    assert client.vcpu(vm, 0) >= 0
    assert client.call(vm, CREATE_VCPU, 0) == EEXIST
    assert client.vcpu(vm, 5) >= 0


def test_numbers_of_vcpus(client: Client) -> None:
    """KVM_SET_BOOT_CPU_ID and KVM_CAP_MAX_VCPU_ID: in their limits, the latter once."""
    max_vcpu_id = 128

    def limit(ids: int) -> int:
        return client.call(vm, ENABLE_CAP, struct.pack("=IIQ88x", max_vcpu_id, 0, ids))

    vm = client.vm()
    assert client.call(vm, SET_BOOT_CPU_ID, 4097) == EINVAL
    assert client.call(vm, SET_BOOT_CPU_ID, 1 << 32) == EINVAL
    assert client.call(vm, SET_BOOT_CPU_ID, 7) == 0
    assert limit(4097) == EINVAL
    assert limit(6) == EINVAL
    assert limit(7) == 0
    assert limit(7) == 0
    assert limit(8) == EINVAL
    assert client.call(vm, SET_BOOT_CPU_ID, 8) == EINVAL
    assert client.call(vm, CREATE_VCPU, 7) == EINVAL
    assert client.call(vm, CREATE_VCPU, 1 << 32) == EINVAL
    assert client.vcpu(vm, 0) >= 0
    assert client.call(vm, SET_BOOT_CPU_ID, 0) == EBUSY
    vm = client.vm()
    assert client.vcpu(vm, 0) >= 0
    assert limit(8) == EINVAL


def test_vcpu_outlives_its_descriptors(client: Client) -> None:
    """A vCPU keeps its VM; closing the VM's descriptor first does no harm."""
    vm = client.call(client.system, CREATE_VM)
    vcpu = client.call(vm, CREATE_VCPU, 0)
    client.door.close(vm)
    assert client.call(vcpu, GET_REGS, bytes(144)) == 0
    client.door.close(vcpu)
    assert client.call(vcpu, GET_REGS, bytes(144)) == EBADF


def test_memory_slots(client: Client) -> None:
    vm = client.vm()
    host = client.memory(64)
    slot = client.slot
    assert slot(vm, 0, 0, 16 * PAGE, host) == 0
    assert slot(vm, 0, 0, 16 * PAGE, host) == 0  # no change
    assert slot(vm, 1, 8 * PAGE, PAGE, host) == EEXIST
    assert slot(vm, 1, 16 * PAGE, PAGE, host) == 0  # an alias of host memory
    assert slot(vm, 1, 0, PAGE, host) == EEXIST
    assert slot(vm, 1, 32 * PAGE, PAGE, host) == 0  # moved
    assert slot(vm, 1, 32 * PAGE, PAGE, host, 1) == 0  # log dirty pages
    assert slot(vm, 1, 32 * PAGE, PAGE, host, 3) == EINVAL  # READONLY cannot change
    assert slot(vm, 1, 32 * PAGE, PAGE, host + PAGE) == EINVAL
    assert slot(vm, 1, 32 * PAGE, 2 * PAGE, host) == EINVAL
    assert slot(vm, 2, 1, PAGE, host) == EINVAL
    assert slot(vm, 2, 0x100000, 1, host) == EINVAL
    assert slot(vm, 2, 0x100000, PAGE, host + 1) == EINVAL
    assert slot(vm, 2, 0x100000, PAGE, host, 0x80) == EINVAL
    assert slot(vm, 32764, 0x100000, PAGE, host) == EINVAL
    assert slot(vm, 32763, 0x100000, PAGE, host) == 0
    assert slot(vm, 1 << 16, 0x200000, PAGE, host) == EINVAL
    assert slot(vm, 2, (1 << 64) - PAGE, 2 * PAGE, host) == EINVAL
    assert slot(vm, 2, 0x100000000, PAGE, 1 << 63) == EINVAL
    assert slot(vm, 1, 0, 0, 0) == 0  # deleted
    assert slot(vm, 1, 0, 0, 0) == EINVAL
    assert client.call(vm, SET_USER_MEMORY_REGION, BAD_POINTER) == EFAULT


def test_dirty_log(client: Client) -> None:
    vm = client.vm()
    host = client.memory(64)
    assert client.slot(vm, 0, 0, 64 * PAGE, host) == 0
    bitmap = bytearray(8)
    at = ctypes.addressof((ctypes.c_char * 8).from_buffer(bitmap))
    log = struct.pack("=IIQ", 0, 0, at)
    assert client.call(vm, GET_DIRTY_LOG, log) == ENOENT
    assert client.slot(vm, 0, 0, 64 * PAGE, host, 1) == 0
    assert client.call(vm, GET_DIRTY_LOG, log) == 0
    assert bitmap == bytes(8)
    assert client.call(vm, GET_DIRTY_LOG, struct.pack("=IIQ", 1, 0, at)) == ENOENT
    assert client.call(vm, GET_DIRTY_LOG, struct.pack("=IIQ", 40000, 0, at)) == EINVAL
    assert client.call(vm, ENABLE_CAP, struct.pack("=II4Q64x", 168, 0, 3, 0, 0, 0)) == 0
    assert client.call(vm, ENABLE_CAP, struct.pack("=II4Q64x", 168, 0, 2, 0, 0, 0)) == EINVAL
    assert client.slot(vm, 1, 64 * PAGE, 64 * PAGE, host, 1) == 0
    assert client.call(vm, GET_DIRTY_LOG, struct.pack("=IIQ", 1, 0, at)) == 0
    assert bitmap == b"\xff" * 8  # initially all set
    clear = struct.Struct("=IIQQ")
    assert client.call(vm, CLEAR_DIRTY_LOG, clear.pack(1, 64, 1, at)) == EINVAL
    assert client.call(vm, CLEAR_DIRTY_LOG, clear.pack(1, 65, 0, at)) == EINVAL
    assert client.call(vm, CLEAR_DIRTY_LOG, clear.pack(1, 1, 0, at)) == EINVAL
    bitmap[:] = b"\x0f" + bytes(7)
    assert client.call(vm, CLEAR_DIRTY_LOG, clear.pack(1, 64, 0, at)) == 0
    assert client.call(vm, GET_DIRTY_LOG, struct.pack("=IIQ", 1, 0, at)) == 0
    assert bitmap == b"\xf0" + b"\xff" * 7
    assert client.slot(vm, 2, 128 * PAGE, 3 * PAGE, host, 1) == 0
    assert client.call(vm, GET_DIRTY_LOG, struct.pack("=IIQ", 2, 0, at)) == 0
    assert bitmap == b"\x07" + bytes(7)  # of three pages, three bits


def test_registers(client: Client) -> None:
    vcpu = client.vcpu(client.vm())
    regs = bytearray(144)
    assert client.call(vcpu, GET_REGS, regs) == 0
    values = struct.unpack("=18Q", regs)
    assert values[16:] == (0xFFF0, 2)  # rip, rflags after reset
    new = struct.pack("=18Q", *range(0x100, 0x110), 0x1234, 0x46)
    assert client.call(vcpu, SET_REGS, new) == 0
    assert client.call(vcpu, GET_REGS, regs) == 0
    assert regs == new
    assert client.call(vcpu, GET_REGS, BAD_POINTER) == EFAULT
    assert client.call(vcpu, SET_REGS, BAD_POINTER) == EFAULT
    assert client.call(vcpu, ioc(0, 0x7F, 0)) == EINVAL
    assert client.call(vcpu, CREATE_IRQCHIP) == EINVAL
    assert client.call(vcpu, RUN, 1) == EINVAL


def test_sregs(client: Client) -> None:
    vcpu = client.vcpu(client.vm())
    sregs = bytearray(312)
    assert client.call(vcpu, GET_SREGS, sregs) == 0
    base, limit, selector = struct.unpack_from("=QIH", sregs, 0)
    assert (base, limit, selector) == (0xFFFF0000, 0xFFFF, 0xF000)
    cr0 = 8 * 24 + 2 * 16
    assert struct.unpack_from("=Q", sregs, cr0)[0] == 0x60000010
    for offset, value in (
        (cr0, 1 << 31 | 0x10),
        (cr0, 1 << 32),
        (cr0, 1 << 29 | 0x10),
        (cr0 + 24, 1 << 40),
    ):
        bad = bytearray(sregs)
        struct.pack_into("=Q", bad, offset, value)
        assert client.call(vcpu, SET_SREGS, bad) == EINVAL, hex(value)
    bad = bytearray(sregs)
    struct.pack_into("=Q", bad, cr0 + 40, 1 << 10)  # EFER.LMA without paging
    assert client.call(vcpu, SET_SREGS, bad) == EINVAL
    assert client.call(vcpu, SET_SREGS, bytes(sregs)) == 0


def test_small_states(client: Client) -> None:
    vcpu = client.vcpu(client.vm(irqchip=True))
    call = client.call
    state = bytearray(4)
    assert call(vcpu, GET_MP_STATE, state) == 0
    assert state == bytes(4)  # RUNNABLE
    assert call(vcpu, SET_MP_STATE, struct.pack("=I", 3)) == 0
    assert call(vcpu, GET_MP_STATE, state) == 0
    assert state[0] == 3
    assert call(vcpu, SET_MP_STATE, struct.pack("=I", 77)) == EINVAL
    debug = bytearray(128)
    assert call(vcpu, GET_DEBUGREGS, debug) == 0
    assert struct.unpack_from("=QQ", debug, 32) == (0xFFFF0FF0, 0x400)
    assert call(vcpu, SET_DEBUGREGS, debug) == 0
    struct.pack_into("=Q", debug, 32, 1 << 32)
    assert call(vcpu, SET_DEBUGREGS, debug) == EINVAL
    assert call(vcpu, SET_XCRS, struct.pack("=II", 17, 0) + bytes(384)) == EINVAL
    assert call(vcpu, SET_XCRS, struct.pack("=IIIIQ", 1, 0, 0, 0, 2) + bytes(368)) == EINVAL
    assert call(vcpu, SET_XCRS, struct.pack("=IIIIQ", 1, 0, 0, 0, 1) + bytes(368)) == 0
    xcrs = bytearray(392)
    assert call(vcpu, GET_XCRS, xcrs) == 0
    assert struct.unpack_from("=IIIIQ", xcrs) == (1, 0, 0, 0, 1)
    assert call(vcpu, GET_XSAVE, bytearray(4096)) == 0
    assert call(vcpu, INTERRUPT, struct.pack("=I", 256)) == EINVAL
    assert call(vcpu, INTERRUPT, struct.pack("=I", 32)) == ENXIO  # the PIC is ours
    assert call(vcpu, NMI) == 0
    assert call(vcpu, KVMCLOCK_CTRL) == EINVAL  # the guest has no clock page
    assert call(vcpu, SET_SIGNAL_MASK, struct.pack("=IQ", 4, 0)) == EINVAL
    assert call(vcpu, SET_SIGNAL_MASK, struct.pack("=IQ", 8, 0)) == 0
    # Behind FUSE the kernel wants to copy what the number says before anybody is asked.
    assert call(vcpu, SET_SIGNAL_MASK, 0) == (EFAULT if os.environ.get("KVMISH_TEST_FUSE") else 0)
    assert call(vcpu, SETUP_MCE, struct.pack("=Q", 0)) == EINVAL
    assert call(vcpu, SETUP_MCE, struct.pack("=Q", 33)) == EINVAL
    assert call(vcpu, SETUP_MCE, struct.pack("=Q", 10)) == 0
    assert call(vcpu, TPR_ACCESS_REPORTING, struct.pack("=II32x", 0, 1)) == EINVAL
    assert call(vcpu, TPR_ACCESS_REPORTING, struct.pack("=II32x", 1, 0)) == 0
    assert call(vcpu, GET_TSC_KHZ) > 100000


def test_lapic_only_with_irqchip(client: Client) -> None:
    alone = client.vcpu(client.vm())
    assert client.call(alone, GET_LAPIC, bytearray(1024)) == EINVAL
    assert client.call(alone, SET_LAPIC, bytes(1024)) == EINVAL
    assert client.call(alone, SET_VAPIC_ADDR, bytes(8)) == EINVAL
    assert client.call(alone, SET_MP_STATE, struct.pack("=I", 3)) == EINVAL
    assert client.call(alone, INTERRUPT, struct.pack("=I", 32)) == 0
    with_chip = client.vcpu(client.vm(irqchip=True))
    page = bytearray(1024)
    assert client.call(with_chip, GET_LAPIC, page) == 0
    assert struct.unpack_from("=I", page, 0x30)[0] & 0xFF == 0x14  # version
    assert client.call(with_chip, SET_LAPIC, page) == 0


def test_events(client: Client) -> None:
    vcpu = client.vcpu(client.vm(irqchip=True))
    events = bytearray(64)
    assert client.call(vcpu, GET_VCPU_EVENTS, events) == 0
    assert client.call(vcpu, SET_VCPU_EVENTS, events) == 0
    injected = bytearray(events)
    injected[0:2] = b"\x01\x20"  # exception 32
    assert client.call(vcpu, SET_VCPU_EVENTS, injected) == EINVAL
    injected[0:2] = b"\x01\x02"  # NMI is no exception
    assert client.call(vcpu, SET_VCPU_EVENTS, injected) == EINVAL
    injected[0:2] = b"\x01\x0d"
    assert client.call(vcpu, SET_VCPU_EVENTS, injected) == 0
    back = bytearray(64)
    assert client.call(vcpu, GET_VCPU_EVENTS, back) == 0
    assert back[0:2] == b"\x01\x0d"
    struct.pack_into("=I", events, 20, 0x80000000)  # flags
    assert client.call(vcpu, SET_VCPU_EVENTS, events) == EINVAL


def test_msrs(client: Client) -> None:
    vcpu = client.vcpu(client.vm(irqchip=True))
    one = struct.Struct("=IIIIQ")
    assert client.call(vcpu, GET_MSRS, one.pack(1, 0, 0xDEAD0000, 0, 0)) == 0  # none done
    assert client.call(vcpu, SET_MSRS, one.pack(1, 0, 0xDEAD0000, 0, 1)) == 0
    assert client.call(vcpu, SET_MSRS, one.pack(1, 0, 0x174, 0, 0x10)) == 1
    got = bytearray(one.pack(1, 0, 0x174, 0, 0))
    assert client.call(vcpu, GET_MSRS, got) == 1
    assert one.unpack(got)[4] == 0x10
    assert client.call(vcpu, GET_MSRS, struct.pack("=II", 256, 0)) == E2BIG
    assert client.call(vcpu, GET_MSRS, BAD_POINTER) == EFAULT
    base = bytearray(one.pack(1, 0, 0x1B, 0, 0))
    assert client.call(vcpu, GET_MSRS, base) == 1
    assert one.unpack(base)[4] == 0xFEE00900


def test_eventfds(client: Client) -> None:
    vm = client.vm(irqchip=True)
    call = client.call
    event = os.eventfd(0)
    plain = os.open("/dev/null", os.O_RDONLY)
    io = struct.Struct("=QQIiI36x")  # datamatch addr len fd flags
    try:
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 3, event, 0)) == EINVAL
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, event, 1 << 10)) == EINVAL
        assert call(vm, IOEVENTFD, io.pack(0, (1 << 64) - 2, 4, event, 0)) == EINVAL
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 0, event, 1)) == EINVAL
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, 9999, 0)) == EBADF
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, plain, 0)) == EINVAL
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, event, 0)) == 0
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, event, 0)) == EEXIST
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, event, 1)) == EEXIST
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 2, event, 0)) == 0
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, event, 4)) == 0
        assert call(vm, IOEVENTFD, io.pack(0, 0x1000, 4, event, 4)) == ENOENT
        irq = struct.Struct("=IIII16x")
        assert call(vm, IRQFD, irq.pack(event, 4, 0x80, 0)) == EINVAL
        assert call(vm, IRQFD, irq.pack(event, 4096, 0, 0)) == 0  # no route yet: no error
        assert call(vm, IRQFD, irq.pack(event, 4096, 1, 0)) == 0
        assert call(vm, IRQFD, irq.pack(9999, 4, 0, 0)) == EBADF
        assert call(vm, IRQFD, irq.pack(event, 4, 0, 0)) == 0
        assert call(vm, IRQFD, irq.pack(event, 5, 0, 0)) == EBUSY
        fcntl.fcntl(event, fcntl.F_SETSIG, 0)  # as another process's machine does that gives it up
        assert call(vm, IRQFD, irq.pack(event, 5, 0, 0)) == EBUSY
        assert call(vm, IRQFD, irq.pack(event, 5, 1, 0)) == 0  # nothing matches: no error
        assert call(vm, IRQFD, irq.pack(event, 4, 1, 0)) == 0
    finally:
        os.close(event)
        os.close(plain)


def test_coalesced_zones(client: Client) -> None:
    vm = client.vm()
    zone = struct.Struct("=QII")
    assert client.call(vm, REGISTER_COALESCED, zone.pack(0x1000, 16, 2)) == EINVAL
    assert client.call(vm, REGISTER_COALESCED, zone.pack(0x1000, 16, 0)) == 0
    assert client.call(vm, UNREGISTER_COALESCED, zone.pack(0x9000, 16, 0)) == 0
    assert client.call(vm, UNREGISTER_COALESCED, zone.pack(0x1000, 16, 0)) == 0


def test_clock(client: Client) -> None:
    vm = client.vm()
    first, second = bytearray(48), bytearray(48)
    assert client.call(vm, GET_CLOCK, first) == 0
    assert client.call(vm, GET_CLOCK, second) == 0
    assert struct.unpack_from("=Q", second)[0] >= struct.unpack_from("=Q", first)[0]
    assert client.call(vm, SET_CLOCK, struct.pack("=QI36x", 5_000_000_000, 0)) == 0
    assert client.call(vm, GET_CLOCK, second) == 0
    assert 5_000_000_000 <= struct.unpack_from("=Q", second)[0] < 6_000_000_000
    assert client.call(vm, SET_CLOCK, struct.pack("=QI36x", 0, 0x80)) == EINVAL


def test_msr_filter(client: Client) -> None:
    vm = client.vm()
    size = X86_SET_MSR_FILTER >> 16 & 0x3FFF
    assert client.call(vm, X86_SET_MSR_FILTER, bytes(size)) == 0
    assert client.call(vm, X86_SET_MSR_FILTER, struct.pack("=I", 1) + bytes(size - 4)) == EINVAL
    assert client.call(vm, X86_SET_MSR_FILTER, struct.pack("=I", 2) + bytes(size - 4)) == EINVAL
    bitmap = ctypes.create_string_buffer(8)
    entry = struct.pack("=IIIIIIQ", 0, 0, 4, 8, 0x174, 0, ctypes.addressof(bitmap))
    assert client.call(vm, X86_SET_MSR_FILTER, entry + bytes(size - len(entry))) == EINVAL
    entry = struct.pack("=IIIIIIQ", 0, 0, 3, 8, 0x174, 0, ctypes.addressof(bitmap))
    assert client.call(vm, X86_SET_MSR_FILTER, entry + bytes(size - len(entry))) == 0


def test_immediate_exit(client: Client) -> None:
    vcpu = client.vcpu(client.vm())
    shared = client.door.mmap(vcpu, 3 * PAGE)
    shared[1] = 1  # immediate_exit
    assert client.call(vcpu, RUN) == EINTR
    shared.close()


def test_waiting_for_sipi(client: Client) -> None:
    vm = client.vm(irqchip=True)
    client.vcpu(vm, 0)
    second = client.vcpu(vm, 1)
    state = bytearray(4)
    assert client.call(second, GET_MP_STATE, state) == 0
    assert state[0] == 1  # UNINITIALIZED
    shared = client.door.mmap(second, 3 * PAGE)
    shared[1] = 1
    assert client.call(second, RUN) == EINTR
    shared.close()


def test_statistics(client: Client) -> None:
    vcpu = client.vcpu(client.vm())
    fd = client.call(vcpu, GET_STATS_FD)
    assert fd >= 0
    try:
        content = os.pread(fd, 65536, 0)
    finally:
        os.close(fd)
    flags, name_size, count, ident, desc, data = struct.unpack_from("=6I", content)
    assert (flags, name_size) == (0, 48)
    assert content[ident:].startswith(b"kvm-")
    names = set()
    for i in range(count):
        at = desc + i * (16 + name_size)
        _, _, size, offset, _ = struct.unpack_from("=IhHII", content, at)
        assert data + offset + 8 * size <= len(content)
        names.add(content[at + 16 : at + 16 + name_size].split(b"\0")[0].decode())
    assert {
        "exits",
        "io_exits",
        "mmio_exits",
        "signal_exits",
        "halt_exits",
        "irq_injections",
    } <= names
