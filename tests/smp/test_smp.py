"""Several vCPUs on one memory: LOCK in every position, code that one writes and others execute.

Each guest is a program that all vCPUs start at the same address with their number in EBX, in real,
32-bit or 64-bit mode; what it leaves in memory is compared with what an x86 must leave. Operand
positions: within a line, across a line, across a page (there the host has no instruction for it).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvm_core import abi, exits
from kvm_core.api import Kvm, Vcpu
from kvm_core.door import DirectDoor
from tests import engines

CODE, TABLES, RAM_BYTES = 0x1000, 0xB000, 0x10000
POSITIONS = {"line": 0x7100, "two lines": 0x703E, "two pages": 0x6FFE}
DEADLINE_S = 60
SPLIT_S = 0.5  # what one vCPU may spend in locks that are split


def assemble(source: str, bits: int, directory: Path) -> bytes:
    """Return code for CODE. {ax}: a register of an address's size; {imm}: where MOV's number is."""
    names = {"{ax}": {16: "ax", 32: "eax", 64: "rax"}[bits], "{imm}": "2" if bits == 16 else "1"}
    for name, value in names.items():
        source = source.replace(name, value)
    (directory / "g.s").write_text(
        f".intel_syntax noprefix\n.code{bits}\n.globl _start\n_start:\n{source}\n"
    )
    wide = bits == 64
    for command in (
        ["as", "--64" if wide else "--32", "-o", "g.o", "g.s"],
        [
            "ld",
            "-m",
            "elf_x86_64" if wide else "elf_i386",
            "-Ttext",
            hex(CODE),
            "-o",
            "g.elf",
            "g.o",
        ],
        ["objcopy", "-O", "binary", "-j", ".text", "g.elf", "g.bin"],
    ):
        subprocess.run(command, cwd=directory, check=True)
    return (directory / "g.bin").read_bytes()


class Machine:
    """A VM without devices, 64 KiB of RAM and some vCPUs, which run code of so many bits."""

    def __init__(self, vcpus: int, bits: int) -> None:
        self.bits = bits
        self.kvm = Kvm(DirectDoor())
        self.vm = self.kvm.create_vm()
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self._pin = (ctypes.c_char * RAM_BYTES).from_buffer(self.ram)
        self.vm.set_user_memory_region(0, 0, RAM_BYTES, self._pin)
        for level, entry in enumerate((TABLES + 0x1003, TABLES + 0x2003, 0x83)):
            struct.pack_into("<Q", self.ram, TABLES + 0x1000 * level, entry)
        self.vcpus = [self.vm.create_vcpu(n) for n in range(vcpus)]

    def start(self, vcpu: Vcpu) -> None:
        """Put a vCPU at the program's start."""
        vcpu.set_cpuid2(self.kvm.get_supported_cpuid())
        sregs = vcpu.get_sregs()
        if self.bits == 16:
            sregs.cs.selector = sregs.cs.base = 0
        else:
            flat = {"base": 0, "limit": 0xFFFFFFFF, "present": 1, "s": 1, "g": 1}
            wide = self.bits == 64
            sregs.cs = abi.KvmSegment(selector=8, type=11, l=wide, db=not wide, **flat)
            for name in ("ds", "es", "fs", "gs", "ss"):
                setattr(sregs, name, abi.KvmSegment(selector=16, type=3, db=1, **flat))
            sregs.cr0, sregs.cr3, sregs.cr4 = 0x80000011 if wide else 0x11, TABLES, 0x20
            sregs.efer = 0x500 if wide else 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags, regs.rbx, regs.rsp = CODE, 2, vcpu.id, 0x9400 + 0x400 * vcpu.id
        vcpu.set_regs(regs)

    def assemble(self, source: str, directory: Path) -> bytes:
        """Return the program for this machine's mode."""
        return assemble(source, self.bits, directory)

    def run(self, code: bytes) -> list[exits.VcpuExit]:
        """Run the program on all vCPUs at once; -> how each ended."""
        self.ram[CODE : CODE + len(code)] = code
        ends: list[exits.VcpuExit] = [exits.OtherExit(-1)] * len(self.vcpus)

        def one(vcpu: Vcpu) -> None:
            ends[vcpu.id] = vcpu.run()

        for vcpu in self.vcpus:
            self.start(vcpu)
        threads = [threading.Thread(target=one, args=(vcpu,)) for vcpu in self.vcpus]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE_S)
            hung = [n for n, thread in enumerate(threads) if thread.is_alive()]
        finally:  # a hung one must not keep the test process
            for vcpu in self.vcpus:
                vcpu.set_immediate_exit(True)
                vcpu.kick()
        assert not hung, f"vCPUs {hung} did not reach HLT"
        return ends

    def word(self, address: int, size: int = 4) -> int:
        """Read guest memory."""
        return int.from_bytes(self.ram[address : address + size], "little")

    def close(self) -> None:
        """Give everything back."""
        for vcpu in self.vcpus:
            vcpu.close()
        self.vm.close()
        self.kvm.close()


@pytest.fixture(
    params=[
        ("emulate", 16, 2),
        ("emulate", 16, 4),
        ("emulate", 64, 2),
        ("translate at once", 32, 2),
        ("translate at once", 64, 2),
        ("translate at once", 64, 4),
    ],
    ids=lambda param: "{}, {} bits, {} vCPUs".format(*param),
)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A fresh machine."""
    way, bits, vcpus = request.param
    engines.choose(way, monkeypatch)
    one = Machine(vcpus, bits)
    yield one
    one.close()


WORK = {
    "inc": "lock inc dword ptr [{at}]",
    "xadd": "mov eax, 1\n lock xadd [{at}], eax",
    "cmpxchg": "mov eax, [{at}]\n2: lea edx, [eax + 1]\n lock cmpxchg [{at}], edx\n jnz 2b",
    "bts": "2: pause\n lock bts dword ptr [0x7800], 5\n jc 2b\n inc dword ptr [{at}]\n mfence\n"
    " lock btr dword ptr [0x7800], 5",
    "xchg": "2: pause\n mov eax, 1\n xchg eax, [0x7800]\n test eax, eax\n jnz 2b\n"
    " inc dword ptr [{at}]\n mov dword ptr [0x7800], 0",
}


@pytest.fixture(scope="session")
def splits(c_program: Callable[..., Path]) -> int:
    """How many LOCKs across a line the host does in SPLIT_S; a cloud may ration them."""
    cost = subprocess.run([c_program("smp/split.c")], capture_output=True, text=True, check=True)
    return int(SPLIT_S * 1e9 / float(cost.stdout))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("work", WORK)
def test_counter(machine: Machine, work: str, position: str, splits: int, tmp_path: Path) -> None:
    """No increment gets lost. SDM vol. 3, 8.1"""
    rounds = 20_000 if position == "two pages" else 100_000
    if work in ("bts", "xchg"):
        rounds = 5_000  # a spin lock among more vCPUs than host processors
    elif position == "two lines":
        rounds = min(rounds, max(splits, 500))
    at = POSITIONS[position]
    body = WORK[work].format(at=hex(at))
    ends = machine.run(
        machine.assemble(f"mov ecx, {rounds}\n1:\n{body}\n dec ecx\n jnz 1b\n hlt", tmp_path)
    )
    assert all(isinstance(end, exits.Hlt) for end in ends)
    assert machine.word(at) == rounds * len(machine.vcpus)


def test_cmpxchg8b_across_pages(machine: Machine, tmp_path: Path) -> None:
    """Both halves of a 64-bit counter move together."""
    rounds, at = 10_000, 0x6FFC
    machine.ram[at : at + 8] = (0xFFFF_FFFF - 500).to_bytes(8, "little")
    program = f"""
        mov dword ptr [0x7900 + ebx * 4], {rounds}
        mov esi, ebx
    1:  mov eax, [{at}]
        mov edx, [{at + 4}]
    2:  mov ebx, eax
        mov ecx, edx
        add ebx, 1
        adc ecx, 0
        lock cmpxchg8b [{at}]
        jnz 2b
        dec dword ptr [0x7900 + esi * 4]
        jnz 1b
        hlt
    """
    ends = machine.run(machine.assemble(program, tmp_path))
    assert all(isinstance(end, exits.Hlt) for end in ends)
    assert machine.word(at, 8) == 0xFFFF_FFFF - 500 + rounds * len(machine.vcpus)


def test_cross_modifying_code(machine: Machine, tmp_path: Path) -> None:
    """vCPU 0 changes an instruction; the others execute it after a serializing one and must see
    the new bytes, each round. SDM vol. 3, 8.1.3
    """
    rounds = 3_000
    program = f"""
        test bx, bx
        jnz reader
        mov ecx, 1
    1:  mov [patch + {{imm}}], ecx           # the immediate
        mov [0x7000], ecx               # may be executed
        mov esi, 1
    2:  pause
        cmp [0x7100 + esi * 4], ecx     # each reader has
        jne 2b
        inc esi
        cmp esi, {len(machine.vcpus)}
        jb 2b
        inc ecx
        cmp ecx, {rounds}
        jbe 1b
        hlt
    reader:
        movzx edi, bx
        mov ebp, 1
    1:  pause
        cmp [0x7000], ebp
        jne 1b
        xor eax, eax
        cpuid
        call patch
        cmp eax, ebp
        jne 3f
        mov [0x7100 + edi * 4], ebp
        inc ebp
        cmp ebp, {rounds}
        jbe 1b
        hlt
    3:  ud2                             # an old instruction was executed
        .org 0x1000
    patch:
        mov eax, 0x12345678
        ret
    """
    ends = machine.run(machine.assemble(program, tmp_path))
    assert [type(end).__name__ for end in ends] == ["Hlt"] * len(ends)


def test_data_beside_code(machine: Machine, tmp_path: Path) -> None:
    """A counter in the page (and line) that all are executing: slow, and right."""
    rounds = 3_000
    program = f"""
        mov ecx, {rounds}
    1:  lock inc dword ptr [counter]
        dec ecx
        jnz 1b
        hlt
        .align 4
    counter: .long 0
    """
    code = machine.assemble(program, tmp_path)
    ends = machine.run(code)
    assert all(isinstance(end, exits.Hlt) for end in ends)
    assert machine.word(CODE + len(code) - 4) == rounds * len(machine.vcpus)


def test_each_patches_the_other(machine: Machine, tmp_path: Path) -> None:
    """All write into one page of code and execute it: each its own function."""
    rounds = 2_000
    program = f"""
        movzx edi, bx
        shl edi, 4
        mov ecx, 1
    1:  mov [edi + own + {{imm}}], ecx
        lea eax, [edi + own]
        call {{ax}}
        cmp eax, ecx
        jne 2f
        inc ecx
        cmp ecx, {rounds}
        jbe 1b
        hlt
    2:  ud2
        .org 0x1000
    own:
        .rept 4
        mov eax, 0x12345678
        ret
        .balign 16, 0x90
        .endr
    """
    ends = machine.run(machine.assemble(program, tmp_path))
    assert [type(end).__name__ for end in ends] == ["Hlt"] * len(ends)


def test_total_store_order(machine: Machine, tmp_path: Path) -> None:
    """Message passing: who sees the flag sees the data (SDM vol. 3, 8.2.3.2), also across pages."""
    rounds = 20_000
    program = f"""
        cmp bx, 1
        ja 9f
        je reader
        mov ecx, 1
    1:  mov [0x6800], ecx
        mov [0x7800], ecx
        inc ecx
        cmp ecx, {rounds}
        jbe 1b
    9:  hlt
    reader:
    1:  mov eax, [0x7800]
        mov edx, [0x6800]
        cmp edx, eax
        jb 2f
        cmp eax, {rounds}
        jb 1b
        hlt
    2:  ud2
    """
    ends = machine.run(machine.assemble(program, tmp_path))
    assert [type(end).__name__ for end in ends] == ["Hlt"] * len(ends)
