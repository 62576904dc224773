"""The processor state in which firmware would hand a vCPU over: registers, MSRs, LAPIC."""

from __future__ import annotations

import struct

from kvm_core import abi
from kvm_core.api import Vcpu
from kvm_core.errors import BackendError
from vmmuser.boot import lowmem
from vmmuser.boot.payload import Entry

CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10

MSR_MISC_ENABLE, MISC_FAST_STRING, MISC_NO_BTS, MISC_NO_PEBS = 0x1A0, 1, 1 << 11, 1 << 12
MSR_MTRR_DEF_TYPE = 0x2FF
_FIXED_MTRRS = {0x250: 6, 0x258: 6, 0x259: 0} | dict.fromkeys(range(0x268, 0x270), 5)

MSR_HWCR, HWCR_TSC_FREQ_SEL = 0xC0010015, 1 << 24

APIC_LVT_LINT0, APIC_LVT_LINT1, APIC_SVR = 0x350, 0x360, 0x0F0
MODE_NMI, MODE_EXTINT = 4 << 8, 7 << 8


def _segment(selector: int, kind: int, *, code: bool = False, long: bool = False) -> abi.KvmSegment:
    return abi.KvmSegment(
        base=0,
        limit=0xFFFFFFFF,
        selector=selector,
        type=kind,
        present=1,
        s=1,
        db=int(not (code and long)),
        l=int(code and long),
        g=1,
    )


def enter(vcpu: Vcpu, entry: Entry) -> None:
    """Set general, segment and control registers of the boot processor."""
    sregs = vcpu.get_sregs()
    long = entry.mode == "long"
    sregs.cs = _segment(lowmem.CODE_SELECTOR, 0xB, code=True, long=long)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, _segment(lowmem.DATA_SELECTOR, 0x3))
    sregs.tr = abi.KvmSegment(base=0, limit=0x67, selector=lowmem.TSS_SELECTOR, type=0xB, present=1)
    sregs.ldt = abi.KvmSegment(unusable=1)
    sregs.gdt = abi.KvmDtable(base=entry.gdt, limit=entry.gdt_limit)
    sregs.idt = abi.KvmDtable()
    sregs.cr0 = CR0_PE | CR0_ET | (CR0_PG if long else 0)
    sregs.cr3 = entry.cr3
    sregs.cr4 = CR4_PAE if long else 0
    sregs.efer = EFER_LME | EFER_LMA if long else 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs(abi.KvmRegs(rip=entry.rip, rflags=2, **entry.regs))


def firmware_msrs(mmio_hole: tuple[int, int], address_bits: int) -> dict[int, int]:
    """MSRs as firmware leaves them: everything write-back but the hole below 4 GiB (SDM vol. 3,
    11.11).
    """
    base, size = mmio_hole
    mask = (1 << address_bits) - size | 1 << 11
    msrs = {MSR_MISC_ENABLE: MISC_FAST_STRING | MISC_NO_BTS | MISC_NO_PEBS}
    msrs |= {index: kind * 0x0101010101010101 for index, kind in _FIXED_MTRRS.items()}
    msrs |= {0x200: base, 0x201: mask, MSR_MTRR_DEF_TYPE: 0xC06}
    return msrs


def set_msrs(vcpu: Vcpu, msrs: dict[int, int]) -> None:
    """Set them all. :raise BackendError: if the core refuses one."""
    done = vcpu.set_msrs(msrs)
    if done != len(msrs):
        index = list(msrs)[done]
        raise BackendError(f"KVM_SET_MSRS: the core refuses MSR {index:#x}; report this")


def steady_tsc(vcpu: Vcpu) -> None:
    """Set TscFreqSel, as an AMD BIOS does (PPR, MSRC001_0015); a core without it is let be."""
    value = vcpu.get_msrs([MSR_HWCR]).get(MSR_HWCR)
    if value is not None:
        vcpu.set_msrs({MSR_HWCR: value | HWCR_TSC_FREQ_SEL})


def firmware_lapic(vcpu: Vcpu) -> None:
    """Virtual wire mode: software-enabled, LINT0 from the 8259, LINT1 is NMI (MP specification
    3.6.2).
    """
    lapic = vcpu.get_lapic()
    struct.pack_into("<I", lapic, APIC_SVR, 0x1FF)
    struct.pack_into("<I", lapic, APIC_LVT_LINT0, MODE_EXTINT)
    struct.pack_into("<I", lapic, APIC_LVT_LINT1, MODE_NMI)
    vcpu.set_lapic(lapic)
