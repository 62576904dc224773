"""Interrupts that the client's own controllers raise: without an irqchip, and with half of one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from kvm_core import abi
from kvm_core.abi import Cap
from kvm_core.api import Kvm, Vcpu, Vm, open_door
from kvm_core.exits import IoExit, IrqWindowOpen
from vmmuser.memory import GuestMemory

CODE = 0x1000
VECTOR = 0x20
HANDLER = 0x2000
MSR_KVM_PV_EOI_EN = 0x4B564D04
LVT_LINT0, SPIV = 0x350, 0xF0
EXTINT, MASKED = 0x700, 0x10700


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[Vm], None]], Vcpu]]:
    """start(controllers): a vCPU in real mode, IF set, whose code writes to port 0x10."""
    opened: list[Kvm | Vm | Vcpu | GuestMemory] = []

    def make(controllers: Callable[[Vm], None]) -> Vcpu:
        kvm = Kvm(open_door("direct"))
        memory = GuestMemory([(0, 0x10000)])
        opened.extend([memory, kvm])
        vm = kvm.create_vm()
        opened.append(vm)
        controllers(vm)
        vm.set_user_memory_region(0, 0, 0x10000, memory.anchor(memory.ranges[0]))
        vcpu = vm.create_vcpu(0)
        opened.append(vcpu)
        vcpu.set_cpuid2(kvm.get_supported_cpuid())
        memory.write(CODE, b"\xe6\x10\xeb\xfc")  # out 0x10, al; jmp back
        memory.write(4 * VECTOR, struct.pack("=HH", HANDLER, 0))
        memory.write(HANDLER, b"\xe6\x20\xcf")  # out 0x20, al; iret
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(abi.KvmRegs(rip=CODE, rsp=0x8000, rflags=0x202))
        return vcpu

    yield make
    for each in reversed(opened):
        each.close()


def _port(vcpu: Vcpu) -> int:
    event = vcpu.run()
    assert isinstance(event, IoExit)
    return event.port


def _no_irqchip(_: Vm) -> None:
    """The client has all of them."""


def _split(vm: Vm) -> None:
    vm.enable_cap(Cap.SPLIT_IRQCHIP, 24)


def _set_lint0(vcpu: Vcpu, value: int) -> None:
    state = vcpu.get_lapic()
    regs = bytearray(bytes(state))
    struct.pack_into("=I", regs, SPIV, 0x1FF)
    struct.pack_into("=I", regs, LVT_LINT0, value)
    vcpu.set_lapic(abi.KvmLapicState.from_buffer_copy(regs))


def test_pv_eoi_without_a_lapic(start: Callable[[Callable[[Vm], None]], Vcpu]) -> None:
    """It crashed: the guest had asked for paravirtual EOIs, and there is no LAPIC to offer them."""
    vcpu = start(_no_irqchip)
    vcpu.set_msrs({MSR_KVM_PV_EOI_EN: 0x3001})
    vcpu.interrupt(VECTOR)
    assert _port(vcpu) == 0x20


@pytest.mark.timeout(20)
def test_no_window_while_lint0_is_masked(start: Callable[[Callable[[Vm], None]], Vcpu]) -> None:
    """It hung: a window that the masked LINT0 kept shut opened again before any instruction."""
    vcpu = start(_split)
    _set_lint0(vcpu, MASKED)
    vcpu.shared.request_interrupt_window = 1
    assert _port(vcpu) == 0x10
    assert _port(vcpu) == 0x10
    assert vcpu.shared.ready_for_interrupt_injection == 0
    _set_lint0(vcpu, EXTINT)
    assert isinstance(vcpu.run(), IrqWindowOpen)
    vcpu.interrupt(VECTOR)
    vcpu.shared.request_interrupt_window = 0
    assert _port(vcpu) == 0x20
    assert _port(vcpu) == 0x10
