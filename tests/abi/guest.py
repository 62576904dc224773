"""Small 64-bit guests for tests: assembler in, what they said and how they ended out.

A program runs at CPL 0 with the first 2 MiB and the APICs mapped one to one. `say x` tells the test
a 32-bit number; `done` ends. `handle n, label` lets label serve vector n: rsi points to vector,
error code, RIP, CS, RFLAGS, RSP and SS, and all registers are saved around it. An exception that
nobody handles ends the guest as Unhandled.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvm_core import abi, exits
from kvm_core.api import Kvm, Vcpu
from kvm_core.door import DirectDoor, Door

RAM_BYTES = 1 << 20
PML4, PDPT, PD_LOW, PD_HIGH, GDT, IDT, TSS, HANDLERS = (0x1000 * n for n in range(1, 9))
STACK, IST, CODE = 0xA000, 0xB000, 0x10000
SAY, DONE, FAULT = 0x70, 0x7F, 0x71
CODE0, DATA0, CODE32_3, DATA3, CODE64_3, TSS_SEL = 0x08, 0x10, 0x1B, 0x23, 0x2B, 0x30
ERROR_CODES = {8, 10, 11, 12, 13, 14, 17, 21}

_PRELUDE = (
    f"""
.intel_syntax noprefix
.code64
.macro say value
    push rax
    mov eax, \\value
    out {SAY}, eax
    pop rax
.endm
.macro done
    out {DONE}, al
    hlt
.endm
.macro handle vector, label
    lea rax, [rip + \\label]
    mov [{HANDLERS} + 8 * \\vector], rax
.endm
.globl _start
_start:
"""
    + "".join(
        f".balign 16\n{'' if n in ERROR_CODES else 'push 0'}\npush {n}\njmp common\n"
        for n in range(256)
    )
    + f"""
.balign 16
jmp main
common:
    push rax; push rbx; push rcx; push rdx; push rsi; push rdi; push rbp; push r8
    push r9; push r10; push r11; push r12; push r13; push r14; push r15
    cld
    lea rsi, [rsp + 15 * 8]
    mov rax, [rsi]
    mov rax, [{HANDLERS} + 8 * rax]
    test rax, rax
    jz 1f
    call rax
    pop r15; pop r14; pop r13; pop r12; pop r11; pop r10; pop r9
    pop r8; pop rbp; pop rdi; pop rsi; pop rdx; pop rcx; pop rbx; pop rax
    add rsp, 16
    iretq
1:  mov eax, [rsi]
    out {FAULT}, eax
    mov eax, [rsi + 8]
    out {FAULT}, eax
    mov eax, [rsi + 16]
    out {FAULT}, eax
    hlt
main:
"""
)


@functools.cache
def assemble(source: str) -> tuple[bytes, dict[str, int]]:
    """Return the image for CODE and its labels."""
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        (at / "g.s").write_text(_PRELUDE + source + "\n")
        for command in (
            ["as", "--64", "-o", "g.o", "g.s"],
            ["ld", "-Ttext", hex(CODE), "-e", "_start", "-o", "g.elf", "g.o"],
            ["objcopy", "-O", "binary", "-j", ".text", "g.elf", "g.bin"],
        ):
            subprocess.run(command, cwd=at, check=True)
        symbols = subprocess.run(
            ["nm", "g.elf"], cwd=at, check=True, capture_output=True, text=True
        ).stdout
        labels = {words[2]: int(words[0], 16) for words in map(str.split, symbols.splitlines())}
        return (at / "g.bin").read_bytes(), labels


@dataclass(frozen=True)
class Unhandled:
    """An exception that no handler took."""

    vector: int
    error: int
    rip: int


class Guest:
    """One VM with one vCPU, ready to run `source`."""

    def __init__(self, source: str, *, irqchip: bool = False, door: Door | None = None) -> None:
        image, self.labels = assemble(source)
        self.kvm = Kvm(door or DirectDoor())
        self.vm = self.kvm.create_vm()
        if irqchip:
            self.vm.create_irqchip()
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self._pin = (ctypes.c_char * RAM_BYTES).from_buffer(self.ram)
        self.host = ctypes.addressof(self._pin)
        self.vm.set_user_memory_region(0, 0, RAM_BYTES, self._pin)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid2(self.kvm.get_supported_cpuid())
        self.ram[CODE : CODE + len(image)] = image
        self._tables()
        self.place(CODE + 256 * 16)
        self.said: list[int] = []

    def _tables(self) -> None:
        put = functools.partial(struct.pack_into, "<Q", self.ram)
        put(PML4, PDPT | 7)
        put(PDPT, PD_LOW | 7)
        put(PDPT + 24, PD_HIGH | 7)
        put(PD_LOW, 0x87)  # 2 MiB, present, writable, user
        for linear in (0xFEC00000, 0xFEE00000):
            put(PD_HIGH + (linear >> 21 & 511) * 8, linear | 0x87)
        descriptors = [0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xCFFB000000FFFF]
        descriptors += [0xCFF3000000FFFF, 0xAFFB000000FFFF, 0x8B0000000067 | TSS << 16, 0]
        for n, descriptor in enumerate(descriptors):
            put(GDT + 8 * n, descriptor)
        for n in range(256):
            stub = CODE + 16 * n
            put(IDT + 16 * n, (stub & 0xFFFF) | CODE0 << 16 | 0x8E00 << 32 | (stub >> 16) << 48)
        put(TSS + 4, STACK)  # RSP0
        put(TSS + 36, IST)  # IST1
        struct.pack_into("<H", self.ram, TSS + 102, 0x68)  # no I/O bitmap

    def place(self, rip: int) -> None:
        s = self.vcpu.get_sregs()
        flat = {"base": 0, "limit": 0xFFFFFFFF, "present": 1, "s": 1, "g": 1}
        s.cs = abi.KvmSegment(selector=CODE0, type=11, l=1, **flat)
        for name in ("ds", "es", "fs", "gs", "ss"):
            setattr(s, name, abi.KvmSegment(selector=DATA0, type=3, db=1, **flat))
        s.tr = abi.KvmSegment(base=TSS, limit=0x67, selector=TSS_SEL, type=11, present=1)
        s.gdt = abi.KvmDtable(base=GDT, limit=8 * 8 - 1)
        s.idt = abi.KvmDtable(base=IDT, limit=256 * 16 - 1)
        s.cr0, s.cr3, s.cr4, s.efer = 0x80010011, PML4, 0x620, 0xD01
        self.vcpu.set_sregs(s)
        r = self.vcpu.get_regs()
        r.rip, r.rflags, r.rsp = rip, 2, STACK
        self.vcpu.set_regs(r)

    def run(self) -> exits.VcpuExit | Unhandled:
        """Run until `done` (HLT is returned), a fault, or an exit that is not a port of ours."""
        fault: list[int] = []
        for _ in range(100_000):
            end = self.vcpu.run()
            if isinstance(end, exits.IoExit) and end.is_write and end.port in (SAY, FAULT, DONE):
                if end.port == DONE:
                    return exits.Hlt()
                (fault if end.port == FAULT else self.said).append(
                    int.from_bytes(end.data, "little")
                )
                if len(fault) == 3:
                    return Unhandled(*fault)
                continue
            return end
        raise AssertionError("the guest does not end")

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        self.kvm.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def heard(source: str, *, irqchip: bool = False) -> list[int]:
    """What a guest said that ended with `done`."""
    with Guest(source, irqchip=irqchip) as guest:
        end = guest.run()
        assert isinstance(end, exits.Hlt), (end, guest.said)
        return guest.said
