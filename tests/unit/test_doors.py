"""`Kvm`, `Vm`, `Vcpu` on a door with the core behind it: tiny guests, exits, errors that say where.

In process, and once more by tests/abi/test_preload.py on the path /dev/kvm under the preload door.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
from collections.abc import Iterator

import pytest

from kvm_core import abi, exits
from kvm_core.api import Kvm, Vcpu, Vm, open_door
from kvm_core.errors import ConfigError

DOOR = os.environ.get("KVMISH_TEST_DOOR", "direct")
CODE = 0x1000

# Under the preload door this very process opens /dev/kvm and gets ours; the outer run watches.
pytestmark = [] if DOOR == "direct" else [pytest.mark.host_kvm]


class Machine:
    """One page of memory, one real-mode vCPU at its start."""

    def __init__(self) -> None:
        self.kvm = Kvm(open_door(DOOR))
        self.vm: Vm = self.kvm.create_vm()
        self.memory = mmap.mmap(-1, abi.PAGE_SIZE)
        self.view = (ctypes.c_char * abi.PAGE_SIZE).from_buffer(self.memory)
        self.vm.set_user_memory_region(0, CODE, abi.PAGE_SIZE, self.view)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        sregs = self.vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        self.vcpu.set_sregs(sregs)

    def start(self, code: str, **regs: int) -> exits.VcpuExit:
        """Put hexadecimal code at the start and run it."""
        raw = bytes.fromhex(code)
        self.memory[: len(raw)] = raw
        self.vcpu.set_regs(abi.KvmRegs(rip=CODE, rflags=2, **regs))
        return self.vcpu.run()

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        self.kvm.close()
        del self.view


@pytest.fixture
def machine() -> Iterator[Machine]:
    one = Machine()
    yield one
    one.close()


def test_port_exits_in_both_directions(machine: Machine) -> None:
    out = machine.start("ee ec f4", rax=42, rdx=0x10)  # out dx, al; in al, dx; hlt
    assert isinstance(out, exits.IoExit)
    assert (out.port, out.size, out.count, out.is_write, bytes(out.data)) == (16, 1, 1, True, b"*")
    into = machine.vcpu.run()
    assert isinstance(into, exits.IoExit)
    assert not into.is_write
    into.data[:] = b"\x07"
    assert isinstance(machine.vcpu.run(), exits.Hlt)
    assert machine.vcpu.get_regs().rax == 7


def test_string_exit_has_a_count_or_comes_one_by_one(machine: Machine) -> None:
    machine.memory[0x800:0x805] = b"hello"
    found = machine.start("f3 6e f4", rcx=5, rdx=0x10, rsi=CODE + 0x800)  # rep outsb; hlt
    seen = b""
    while isinstance(found, exits.IoExit):
        assert len(found.data) == found.size * found.count
        seen += bytes(found.data)
        found = machine.vcpu.run()
    assert isinstance(found, exits.Hlt)
    assert seen == b"hello"


def test_memory_exits_in_both_directions(machine: Machine) -> None:
    # mov ax, [0x5000]; mov [0x5002], ax; hlt
    read = machine.start("a1 00 50 a3 02 50 f4")
    assert isinstance(read, exits.MmioExit)
    assert (read.gpa, read.size, read.is_write) == (0x5000, 2, False)
    read.data[:] = b"\x34\x12"
    write = machine.vcpu.run()
    assert isinstance(write, exits.MmioExit)
    assert (write.gpa, write.size, write.is_write) == (0x5002, 2, True)
    assert bytes(write.data) == b"\x34\x12"
    assert isinstance(machine.vcpu.run(), exits.Hlt)


def test_triple_fault(machine: Machine) -> None:
    sregs = machine.vcpu.get_sregs()
    sregs.idt.limit = 0
    machine.vcpu.set_sregs(sregs)
    assert isinstance(machine.start("cc"), exits.Shutdown)


def test_immediate_exit(machine: Machine) -> None:
    machine.vcpu.set_immediate_exit(True)
    assert isinstance(machine.start("f4"), exits.Interrupted)
    machine.vcpu.set_immediate_exit(False)
    assert isinstance(machine.vcpu.run(), exits.Hlt)


def test_a_refused_call_says_which_and_where(machine: Machine) -> None:
    with pytest.raises(OSError, match=rf"KVM_CREATE_VCPU on --kvm {DOOR}: File exists") as caught:
        machine.vm.create_vcpu(0)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(OSError, match="KVM_SET_USER_MEMORY_REGION") as caught:
        machine.vm.set_user_memory_region(1, CODE, abi.PAGE_SIZE, machine.view)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(OSError, match="ioctl 0xaeff"):
        machine.vcpu.ioctl(0xAEFF)


def test_a_call_after_close() -> None:
    machine = Machine()
    machine.close()
    with pytest.raises(OSError, match="KVM_GET_REGS") as caught:
        machine.vcpu.get_regs()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="KVM_RUN"):
        machine.vcpu.run()


@pytest.mark.parametrize("path", ["/dev/null", "/nonexistent", "/etc", "/etc/passwd", ""])
def test_a_path_that_is_no_kvm(path: str) -> None:
    with pytest.raises((ConfigError, OSError), match=rf"--kvm {path}"):
        Kvm(open_door(path)).get_api_version()


def test_machines_leave_nothing_behind() -> None:
    Machine().close()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        Machine().close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_a_vcpu_is_given_comes_back(machine: Machine) -> None:
    vcpu = machine.vcpu
    fpu = vcpu.get_fpu()
    fpu.fcw = 0x27F
    vcpu.set_fpu(fpu)
    assert vcpu.get_fpu().fcw == 0x27F
    sregs = vcpu.get_sregs2()
    sregs.cr2 = 0x1234
    vcpu.set_sregs2(sregs)
    assert vcpu.get_sregs().cr2 == 0x1234
    khz = vcpu.get_tsc_khz()
    vcpu.set_tsc_khz(khz)
    assert vcpu.get_tsc_khz() == khz
    vcpu.set_signal_mask([10, 12])
    if not os.environ.get("KVMISH_TEST_FUSE"):  # FUSE reads what the number says: no NULL
        vcpu.set_signal_mask(None)


def test_msrs_that_describe_the_processor_have_values(machine: Machine) -> None:
    indices = machine.kvm.get_msr_feature_index_list()
    assert indices
    assert list(machine.kvm.get_msrs(indices)) == indices


def test_the_first_processor_and_the_routes_are_the_clients(machine: Machine) -> None:
    vm = machine.kvm.create_vm()
    vm.set_boot_cpu_id(1)
    vm.create_irqchip()
    vm.set_gsi_routing([abi.KvmIrqRoutingEntry(gsi=40, type=abi.IRQ_ROUTING_MSI)])
    with pytest.raises(OSError, match="Invalid argument"):
        vm.set_gsi_routing([abi.KvmIrqRoutingEntry(gsi=40, type=99)])
    vm.close()
