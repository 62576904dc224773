"""Runs two tiny guests on a KVM device: could a stock kernel use it?

Its own process (`python -m kvmish.kvm_probe PATH`), because a KVM that cannot do what it offers
may never come back from KVM_RUN; `kvmish doctor` gives it a time limit. Prints one JSON object a
stage, flushed, so that the last line before a hang tells how far it came.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import sys
import time

from kvm_core import abi

MEMORY_BYTES = 2 << 20
CODE, HANDLER, STACK = 0x1000, 0x1800, 0x8000
PML4, PDPT, PD, GDT, IDT = 0x10000, 0x11000, 0x12000, 0x13000, 0x14000
PORT, ANSWER = 0x10, 42
CPUID_ENTRIES = 256

REAL_MODE = bytes.fromhex("b0 2a e6 10 f4")  # mov al, 42; out 0x10, al; hlt

# What a kernel does in its first microseconds of 64-bit mode.
LONG_MODE = bytes.fromhex(
    "b8 01 00 00 00"  # mov eax, 1
    "0f a2"  # cpuid
    "b9 80 00 00 c0"  # mov ecx, IA32_EFER
    "0f 32 0f 30"  # rdmsr; wrmsr
    "0f 20 e0 0f 22 e0"  # mov rax, cr4; mov cr4, rax
    "0f 20 d8 0f 22 d8"  # mov rax, cr3; mov cr3, rax
    "0f 0b"  # ud2, skipped by the handler
    "b0 2a e6 10 f4"
)
# mov ecx, LOOPS; 1: dec ecx; jnz 1b
LOOPS = 400_000
LOOP = b"\xb9" + LOOPS.to_bytes(4, "little") + bytes.fromhex("ff c9 75 fc b0 2a e6 10 f4")
# A boot runs some 2 billion instructions; below this rate that is most of a minute.
SLOW_MIPS = 50

UD_HANDLER = bytes.fromhex("48 83 04 24 02 48 cf")  # add qword [rsp], 2; iretq


def main(path: str) -> int:
    """Report each stage; exit status 0 if every one gave its answer."""
    good = True
    stages = (
        ("open", _open),
        ("real mode", _real_mode),
        ("long mode", _long_mode),
        ("speed", _speed),
    )
    for stage, run in stages:
        try:
            detail = run(path)
            ok = True
        except OSError as error:
            detail, ok = error.strerror or str(error), False
        sys.stdout.write(json.dumps({"stage": stage, "ok": ok, "detail": detail}) + "\n")
        sys.stdout.flush()
        if not ok:
            good = False
            break
    return 0 if good else 1


def _open(path: str) -> str:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        version = fcntl.ioctl(fd, abi.KVM_GET_API_VERSION, 0)
    finally:
        os.close(fd)
    if version != abi.API_VERSION:
        raise OSError(f"API version {version}, not {abi.API_VERSION}")
    return f"API version {version}"


def _real_mode(path: str) -> str:
    return _Guest(path).run(REAL_MODE, long_mode=False)


def _long_mode(path: str) -> str:
    return _Guest(path).run(LONG_MODE, long_mode=True)


def _speed(path: str) -> str:
    guest = _Guest(path)
    guest.run(LOOP, long_mode=True)
    mips = 2 * LOOPS * 1000 / guest.answer_ns
    if mips < SLOW_MIPS:
        raise OSError(f"{mips:.1f} million instructions a second: a KVM that emulates")
    return f"at least {mips:.0f} million instructions a second"


class _Guest:
    """One vCPU with 2 MiB at guest-physical 0; its descriptors live as long as this process."""

    def __init__(self, path: str) -> None:
        kvm = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.vm = fcntl.ioctl(kvm, abi.KVM_CREATE_VM, 0)
        self.memory = mmap.mmap(-1, MEMORY_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        region = abi.KvmUserspaceMemoryRegion()
        region.memory_size = MEMORY_BYTES
        region.userspace_addr = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(self.vm, abi.KVM_SET_USER_MEMORY_REGION, region)
        self.vcpu = fcntl.ioctl(self.vm, abi.KVM_CREATE_VCPU, 0)
        entry_bytes = ctypes.sizeof(abi.KvmCpuidEntry2)
        cpuid = bytearray(CPUID_ENTRIES.to_bytes(8, "little") + bytes(CPUID_ENTRIES * entry_bytes))
        fcntl.ioctl(kvm, abi.KVM_GET_SUPPORTED_CPUID, cpuid)
        fcntl.ioctl(self.vcpu, abi.KVM_SET_CPUID2, cpuid)
        size = fcntl.ioctl(kvm, abi.KVM_GET_VCPU_MMAP_SIZE, 0)
        self.page = mmap.mmap(self.vcpu, size)

    def run(self, code: bytes, long_mode: bool) -> str:
        """Run the code up to its answer on the port and the HLT behind it."""
        self.memory[CODE : CODE + len(code)] = code
        sregs = abi.KvmSregs()
        fcntl.ioctl(self.vcpu, abi.KVM_GET_SREGS, sregs)
        sregs.cs.base, sregs.cs.selector = 0, 0
        if long_mode:
            self._prepare_long_mode(sregs)
        fcntl.ioctl(self.vcpu, abi.KVM_SET_SREGS, sregs)
        regs = abi.KvmRegs()
        regs.rip, regs.rflags, regs.rsp = CODE, 2, STACK
        fcntl.ioctl(self.vcpu, abi.KVM_SET_REGS, regs)
        start = time.perf_counter_ns()
        self._expect(abi.Exit.IO)
        self.answer_ns = time.perf_counter_ns() - start
        run = abi.KvmRun.from_buffer(self.page)
        value = self.page[run.io.data_offset]
        if run.io.port != PORT or value != ANSWER:
            raise OSError(f"port {run.io.port:#x} got {value}")
        self._expect(abi.Exit.HLT)
        return "answered and halted"

    def _expect(self, wanted: abi.Exit) -> None:
        fcntl.ioctl(self.vcpu, abi.KVM_RUN, 0)
        reason = abi.KvmRun.from_buffer(self.page).exit_reason
        if reason != wanted:
            raise OSError(f"KVM_RUN left with reason {reason} instead of {wanted.name}")

    def _prepare_long_mode(self, sregs: abi.KvmSregs) -> None:
        """Identity-map 2 MiB by one large page; an IDT with #UD alone."""
        for table, entry in ((PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0x87)):
            self.memory[table : table + 8] = entry.to_bytes(8, "little")
        self.memory[HANDLER : HANDLER + len(UD_HANDLER)] = UD_HANDLER
        code_segment, data_segment = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
        self.memory[GDT + 8 : GDT + 24] = code_segment.to_bytes(8, "little") + (
            data_segment.to_bytes(8, "little")
        )
        gate = HANDLER & 0xFFFF | 8 << 16 | 0x8E00 << 32  # SDM vol. 3, 6.14.1: interrupt gate
        self.memory[IDT + 6 * 16 : IDT + 6 * 16 + 8] = gate.to_bytes(8, "little")
        sregs.gdt.base, sregs.gdt.limit = GDT, 23
        sregs.idt.base, sregs.idt.limit = IDT, 7 * 16 - 1
        sregs.cr3, sregs.cr4, sregs.efer = PML4, 0x20, 0x500  # PAE; LME | LMA
        sregs.cr0 = 0x80000011  # PG | ET | PE
        cs = sregs.cs
        cs.selector, cs.limit, cs.type, cs.present, cs.s = 8, 0xFFFFFFFF, 11, 1, 1
        cs.dpl, cs.l, cs.db, cs.g = 0, 1, 0, 1
        for name in ("ds", "es", "fs", "gs", "ss"):
            segment = getattr(sregs, name)
            segment.base, segment.selector, segment.limit, segment.type = 0, 16, 0xFFFFFFFF, 3
            segment.present, segment.s, segment.dpl, segment.db, segment.g = 1, 1, 0, 1, 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
