"""A vCPU's and the chips' state after power-on, taken when they are new and put back by a reset."""

from __future__ import annotations

from typing import NamedTuple

from kvm_core import abi
from kvm_core.api import Vcpu, Vm

MSR_TSC = 0x10  # goes on over a reset: setting it on one vCPU after another would skew them
_CHIPS = (abi.IRQCHIP_PIC_MASTER, abi.IRQCHIP_PIC_SLAVE, abi.IRQCHIP_IOAPIC)


class VcpuState(NamedTuple):
    """Everything that KVM lets a client set."""

    mp_state: int
    regs: abi.KvmRegs
    sregs: abi.KvmSregs
    xsave: abi.KvmXsave
    xcrs: abi.KvmXcrs
    debugregs: abi.KvmDebugregs
    events: abi.KvmVcpuEvents
    lapic: abi.KvmLapicState
    msrs: dict[int, int]


def take_vcpu(vcpu: Vcpu, indices: list[int]) -> VcpuState:
    """Read a vCPU whose CPUID is set; of the MSRs named, those that it has."""
    return VcpuState(
        mp_state=vcpu.get_mp_state(),
        regs=vcpu.get_regs(),
        sregs=vcpu.get_sregs(),
        xsave=vcpu.get_xsave(),
        xcrs=vcpu.get_xcrs(),
        debugregs=vcpu.get_debugregs(),
        events=vcpu.get_vcpu_events(),
        lapic=vcpu.get_lapic(),
        msrs=_get_msrs(vcpu, [index for index in indices if index != MSR_TSC]),
    )


def put_vcpu(vcpu: Vcpu, state: VcpuState) -> None:
    """Put it back; the vCPU is not running."""
    vcpu.set_sregs(state.sregs)
    vcpu.set_xcrs(state.xcrs)
    vcpu.set_xsave(state.xsave)
    vcpu.set_debugregs(state.debugregs)
    vcpu.set_lapic(state.lapic)
    _set_msrs(vcpu, state.msrs)  # behind the LAPIC: the deadline timer is one of them
    vcpu.set_vcpu_events(state.events)
    vcpu.set_regs(state.regs)
    vcpu.set_mp_state(state.mp_state)


def _get_msrs(vcpu: Vcpu, indices: list[int]) -> dict[int, int]:
    """KVM stops at the first that it cannot read; go on behind it."""
    values: dict[int, int] = {}
    at = 0
    while at < len(indices):
        got = vcpu.get_msrs(indices[at:])
        values |= got
        at += len(got) + 1
    return values


def _set_msrs(vcpu: Vcpu, values: dict[int, int]) -> None:
    """KVM stops at the first that it cannot set, a read-only one for instance; go on behind it."""
    items = list(values.items())
    at = 0
    while at < len(items):
        at += vcpu.set_msrs(dict(items[at:])) + 1


class ChipState(NamedTuple):
    """The interrupt chips and the timer of a VM."""

    chips: list[abi.KvmIrqchip]
    pit: abi.KvmPitState2


def take_chips(vm: Vm) -> ChipState:
    """Read them."""
    return ChipState([vm.get_irqchip(chip) for chip in _CHIPS], vm.get_pit2())


def put_chips(vm: Vm, state: ChipState) -> None:
    """Put them back; all interrupt lines are low."""
    for chip in state.chips:
        vm.set_irqchip(chip)
    vm.set_pit2(state.pit)
