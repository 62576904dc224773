"""The contract of requests that few clients send; as test_contract.py, on every door."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import termios

import pytest

from kvm_core.door import DirectDoor
from tests.abi.test_contract import (
    BAD_POINTER,
    CREATE_IRQCHIP,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOTTY,
    ENXIO,
    GET_REGS,
    GET_TSC_KHZ,
    PAGE,
    SET_TSS_ADDR,
    SETUP_MCE,
    Client,
    client,
    ioc,
)  # fmt: skip
from tools import abi_differences, abi_page

__all__ = ["client"]  # a fixture

E2BIG, EOPNOTSUPP = -errno.E2BIG, -errno.EOPNOTSUPP

GET_EMULATED_CPUID, GET_MSR_FEATURE_INDEX_LIST = ioc(3, 9, 8), ioc(3, 0xA, 4)
MCE_CAP_SUPPORTED, GET_MSRS = ioc(2, 0x9D, 8), ioc(3, 0x88, 8)
SET_DEVICE_ATTR, GET_DEVICE_ATTR, HAS_DEVICE_ATTR = (ioc(1, n, 24) for n in (0xE1, 0xE2, 0xE3))
TRACE = [ioc(1, 6, 8), ioc(0, 7, 0), ioc(0, 8, 0)]
REGION2, SET_TSC_KHZ, SET_NR_MMU_PAGES = ioc(1, 0x49, 160), ioc(0, 0xA2, 0), ioc(0, 0x44, 0)
CREATE_PIT, GET_PIT, SET_PIT = ioc(0, 0x64, 0), ioc(3, 0x65, 72), ioc(2, 0x66, 72)
SET_CPUID, GET_CPUID2, SET_MCE = ioc(1, 0x8A, 8), ioc(3, 0x91, 8), ioc(1, 0x9E, 64)
GET_SREGS2, SET_SREGS2 = ioc(2, 0xCC, 320), ioc(1, 0xCD, 320)
GET_FPU, SET_FPU, GET_XSAVE2 = ioc(2, 0x8C, 416), ioc(1, 0x8D, 416), ioc(2, 0xCF, 4096)


def test_feature_msrs(client: Client) -> None:
    """Each of the list is read on the system descriptor."""
    room = bytearray(struct.pack("=I", 100) + bytes(400))
    assert client.call(client.system, GET_MSR_FEATURE_INDEX_LIST, room) == 0
    (count,) = struct.unpack_from("=I", room)
    assert count
    for index in struct.unpack_from(f"={count}I", room, 4):
        one = bytearray(struct.pack("=IIIIQ", 1, 0, index, 0, 0))
        assert client.call(client.system, GET_MSRS, one) == 1
    assert client.call(client.system, GET_MSR_FEATURE_INDEX_LIST, BAD_POINTER) == EFAULT


def test_what_is_supported(client: Client) -> None:
    value = bytearray(8)
    assert client.call(client.system, MCE_CAP_SUPPORTED, value) == 0
    assert struct.unpack("=Q", value)[0] & 1 << 8  # MCG_CTL_P
    assert client.call(client.system, MCE_CAP_SUPPORTED, BAD_POINTER) == EFAULT
    cpuid = bytearray(struct.pack("=II", 10, 0) + bytes(400))
    assert client.call(client.system, GET_EMULATED_CPUID, cpuid) == 0
    functions = [entry[0] for entry in struct.iter_unpack("=10I", cpuid[8:])]
    assert functions[: struct.unpack_from("=I", cpuid)[0]] == [0, 1, 7]
    for room, answer in ((0, E2BIG), (3, E2BIG), (4, 0)):
        cpuid[:4] = struct.pack("=I", room)
        assert client.call(client.system, GET_EMULATED_CPUID, cpuid) == answer
    cpuid[-1] = 1  # the padding of the last
    cpuid[:4] = struct.pack("=I", 9)
    assert client.call(client.system, GET_EMULATED_CPUID, cpuid) == 0
    cpuid[:4] = struct.pack("=I", 10)
    assert client.call(client.system, GET_EMULATED_CPUID, cpuid) == EINVAL
    place = client.memory(1)
    xcr0 = struct.pack("=IIQQ", 0, 0, 0, place)  # KVM_X86_XCOMP_GUEST_SUPP
    assert client.call(client.system, HAS_DEVICE_ATTR, xcr0) == 0
    assert client.call(client.system, GET_DEVICE_ATTR, xcr0) == 0
    unknown = struct.pack("=IIQQ", 0, 0, 77, place)
    assert client.call(client.system, HAS_DEVICE_ATTR, unknown) == ENXIO
    assert client.call(client.system, GET_DEVICE_ATTR, unknown) == ENXIO
    for request in TRACE:  # Linux has forgotten them since
        assert client.call(client.system, request, bytes(8)) in (EOPNOTSUPP, EINVAL)


def test_addresses(client: Client) -> None:
    """KVM_SET_TSS_ADDR takes three pages below 4 GiB, up to the very end (kvm-host's choice)."""
    vm = client.vm()
    assert client.call(vm, SET_TSS_ADDR, 0xFFFFD000) == 0
    assert client.call(vm, SET_TSS_ADDR, 0xFFFFE000) == EINVAL
    assert client.call(vm, SET_NR_MMU_PAGES, 10) == EINVAL
    assert client.call(vm, SET_NR_MMU_PAGES, 1000) == 0


def test_second_form_of_a_slot(client: Client) -> None:
    """KVM_SET_USER_MEMORY_REGION2 without guest_memfd is the first form."""
    if client.call(client.system, ioc(0, 3, 0), 231) != 1:
        pytest.skip("a KVM older than Linux 6.8")
    vm, host = client.vm(), client.memory(4)
    region = struct.pack("=IIQQQ", 0, 0, 0x1000, 2 * PAGE, host) + bytes(128)
    assert client.call(vm, REGION2, region) == 0
    other = struct.pack("=IIQQQ", 1, 0, 0x2000, 2 * PAGE, host) + bytes(128)
    assert client.call(vm, REGION2, other) == EEXIST
    assert client.call(vm, REGION2, BAD_POINTER) == EFAULT


def test_first_form_of_the_timer(client: Client) -> None:
    vm = client.vm()
    state = bytearray(72)
    assert client.call(vm, CREATE_PIT) == -2  # ENOENT: no interrupt controllers
    assert client.call(vm, CREATE_IRQCHIP) == 0
    assert client.call(vm, GET_PIT, state) == ENXIO
    assert client.call(vm, CREATE_PIT) == 0
    assert client.call(vm, CREATE_PIT) == EEXIST
    assert client.call(vm, GET_PIT, state) == 0
    struct.pack_into("=I", state, 24, 0x1234)  # channel 1's count
    state[24 + 14] = 1  # and gate
    assert client.call(vm, SET_PIT, state) == 0
    again = bytearray(72)
    assert client.call(vm, GET_PIT, again) == 0
    assert struct.unpack_from("=I", again, 24) == (0x1234,)
    assert client.call(vm, SET_PIT, BAD_POINTER) == EFAULT


def test_tsc_rate(client: Client) -> None:
    vm = client.vm()
    vcpu = client.vcpu(vm)
    khz = client.call(vcpu, GET_TSC_KHZ)
    assert client.call(vcpu, SET_TSC_KHZ, khz) == 0
    assert client.call(vcpu, SET_TSC_KHZ, 0) == 0
    assert client.call(vm, SET_TSC_KHZ, khz) == EINVAL  # there is a vCPU already
    other = client.vm()
    assert client.call(other, SET_TSC_KHZ, khz) == 0
    assert client.call(other, GET_TSC_KHZ) == khz


def test_tsc_offset(client: Client) -> None:
    """KVM_VCPU_TSC_CTRL."""
    vcpu, place = client.vcpu(client.vm()), client.memory(1)
    offset = struct.pack("=IIQQ", 0, 0, 0, place)
    assert client.call(vcpu, HAS_DEVICE_ATTR, offset) == 0
    assert client.call(vcpu, GET_DEVICE_ATTR, offset) == 0
    assert client.call(vcpu, SET_DEVICE_ATTR, offset) == 0
    for request in (HAS_DEVICE_ATTR, GET_DEVICE_ATTR, SET_DEVICE_ATTR):
        assert client.call(vcpu, request, struct.pack("=IIQQ", 0, 0, 9, place)) == ENXIO
        assert client.call(vcpu, request, struct.pack("=IIQQ", 0, 9, 0, place)) == ENXIO
    bad = struct.pack("=IIQQ", 0, 0, 0, BAD_POINTER)
    assert client.call(vcpu, GET_DEVICE_ATTR, bad) == EFAULT
    assert client.call(vcpu, SET_DEVICE_ATTR, bad) == EFAULT


def test_first_form_of_cpuid(client: Client) -> None:
    """KVM_SET_CPUID's entries have no index; KVM_GET_CPUID2 shows them."""
    vcpu = client.vcpu(client.vm())
    entry = struct.pack("=IIIIII", 0, 0xD, 1, 2, 3, 0)
    assert client.call(vcpu, SET_CPUID, struct.pack("=II", 1, 0) + entry) == 0
    room = bytearray(struct.pack("=II", 8, 0) + bytes(320))
    assert client.call(vcpu, GET_CPUID2, room) == 0
    assert struct.unpack_from("=I", room) == (1,)
    assert struct.unpack_from("=IIIIIII", room, 8) == (0, 0, 0, 0xD, 1, 2, 3)
    struct.pack_into("=I", room, 0, 0)
    assert client.call(vcpu, GET_CPUID2, room) == -7  # E2BIG
    assert struct.unpack_from("=I", room) == (0,)
    assert client.call(vcpu, SET_CPUID, struct.pack("=II", 257, 0) + bytes(257 * 24)) == -7  # E2BIG


def test_machine_checks(client: Client) -> None:
    vcpu = client.vcpu(client.vm(irqchip=True))
    assert client.call(vcpu, SETUP_MCE, struct.pack("=Q", 4)) == 0
    valid = 1 << 63
    assert client.call(vcpu, SET_MCE, struct.pack("=QQQQB31x", valid, 0, 0, 0, 3)) == 0
    assert client.call(vcpu, SET_MCE, struct.pack("=QQQQB31x", valid, 0, 0, 0, 4)) == EINVAL
    assert client.call(vcpu, SET_MCE, struct.pack("=QQQQB31x", 0, 0, 0, 0, 3)) == EINVAL
    bank = bytearray(struct.pack("=IIIIQ", 1, 0, 0x401 + 4 * 3, 0, 0))  # MC3_STATUS
    assert client.call(vcpu, GET_MSRS, bank) == 1
    assert struct.unpack_from("=Q", bank, 16) == (valid,)


def test_second_form_of_sregs(client: Client) -> None:
    vcpu = client.vcpu(client.vm())
    state = bytearray(320)
    assert client.call(vcpu, GET_SREGS2, state) == 0
    flags, *pointers = struct.unpack_from("=Q4Q", state, 280)
    assert not flags
    assert pointers == [0] * 4
    assert client.call(vcpu, SET_SREGS2, state) == 0
    struct.pack_into("=Q", state, 280, 2)  # no such flag
    assert client.call(vcpu, SET_SREGS2, state) == EINVAL
    assert client.call(vcpu, GET_SREGS2, BAD_POINTER) == EFAULT


def test_floating_point_state(client: Client) -> None:
    """What KVM_SET_FPU sets KVM_GET_FPU shows; KVM_GET_XSAVE2 has its control word."""
    vcpu = client.vcpu(client.vm())
    state = bytearray(416)
    assert client.call(vcpu, GET_FPU, state) == 0
    assert struct.unpack_from("=H", state, 128) == (0x37F,)
    state[0:10] = bytes(range(1, 11))  # ST0
    state[160:176] = bytes(range(16))  # XMM0
    struct.pack_into("=I", state, 408, 0x1F80)
    assert client.call(vcpu, SET_FPU, state) == 0
    again = bytearray(416)
    assert client.call(vcpu, GET_FPU, again) == 0
    assert again[0:10] == state[0:10]
    assert again[160:176] == state[160:176]
    area = bytearray(8192)
    assert client.call(vcpu, GET_XSAVE2, area) == 0
    assert struct.unpack_from("=H", area) == (0x37F,)


# Those that this header knows; on Linux older ones are known by no program either.
ABSENT = sorted(set(abi_differences.ABSENT) & set(abi_page.header_requests()))


@pytest.mark.parametrize("name", ABSENT)
def test_absent_requests(name: str) -> None:
    """EINVAL, but ENOTTY on a VM: as any request that is unknown there."""
    one = Client(DirectDoor())
    try:
        vm = one.vm()
        request = ioc(0, abi_page.header_requests()[name], 8)
        assert one.call(one.system, request) == EINVAL
        assert one.call(vm, request) == ENOTTY
        assert one.call(one.vcpu(vm), request) == EINVAL
    finally:
        one.close()


def test_another_descriptors_request(client: Client) -> None:
    vm = client.vm()
    assert client.call(vm, GET_REGS, bytes(144)) == ENOTTY
    assert client.call(client.vcpu(vm), CREATE_IRQCHIP) == EINVAL


def test_what_the_kernel_answers_for_any_file(client: Client) -> None:
    """FIOCLEX and FIONCLEX, of which os.set_inheritable() takes only ENOTTY for no answer."""
    vm = client.vm()
    for fd in (client.system, vm, client.vcpu(vm)):
        for inheritable in (True, False):
            os.set_inheritable(fd, inheritable)
            assert os.get_inheritable(fd) == inheritable
            os.set_blocking(fd, not inheritable)
            assert os.get_blocking(fd) != inheritable
        assert fcntl.ioctl(fd, termios.FIONBIO, struct.pack("i", 1))
        assert not os.get_blocking(fd)


def test_descriptors_are_not_files(client: Client) -> None:
    """There is nothing to read, to write or to map in the system's and a VM's."""
    for fd in (client.system, client.vm()):
        for use in (lambda fd=fd: os.read(fd, 8), lambda fd=fd: os.write(fd, b"x")):
            with pytest.raises(OSError, match="Invalid argument"):
                use()
        with pytest.raises((OSError, ValueError)):  # mmap.mmap() itself refuses an empty file
            mmap.mmap(fd, PAGE)
