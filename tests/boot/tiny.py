"""Guests of a few instructions, wrapped as a bzImage whose 64-bit entry they are."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.boot.bzimage import bzimage

PROLOGUE = """
.intel_syntax noprefix
.code64
.globl _start
_start:
    mov r15, rsi                # boot_params
    lea rsp, [rip + stack_top]
    jmp main

putc:                           # al, as a polling driver does it
    push rdx
    push rax
    mov dx, 0x3fd
1:  in al, dx
    test al, 0x20
    jz 1b
    pop rax
    mov dx, 0x3f8
    out dx, al
    pop rdx
    ret

puts:                           # rsi, ends with 0
1:  lodsb
    test al, al
    jz 2f
    call putc
    jmp 1b
2:  ret

putx:                           # rax, 16 hexadecimal digits
    push rcx
    push rbx
    mov rbx, rax
    mov ecx, 16
1:  rol rbx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 'a' - '9' - 1
2:  call putc
    loop 1b
    mov al, 10
    call putc
    pop rbx
    pop rcx
    ret

off:                            # S5
    mov dx, 0x604
    mov ax, 5 << 10 | 1 << 13
    out dx, ax
1:  cli
    hlt
    jmp 1b

.macro say text
    lea rsi, [rip + 9f]
    call puts
    .section .rodata
9:  .asciz "\\text"
    .text
.endm

main:
"""

EPILOGUE = """
.bss
.align 16
.skip 4096
stack_top:
"""

LINK = """
SECTIONS { . = 0x1000200; .text : { *(.text) *(.rodata*) *(.data) }
           .bss : { *(.bss) } /DISCARD/ : { *(.note*) } }
"""


def assemble(body: str) -> bytes:
    """The flat code for address 0x1000200; `body` is what `main` does."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "t.s").write_text(PROLOGUE + body + EPILOGUE)
        (directory / "t.ld").write_text(LINK)
        for command in (
            ["as", "-o", "t.o", "t.s"],
            ["ld", "-e", "_start", "-T", "t.ld", "-o", "t.elf", "t.o"],
            ["objcopy", "-O", "binary", "-j", ".text", "t.elf", "t.bin"],
        ):
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        return (directory / "t.bin").read_bytes()


PVH = """
.intel_syntax noprefix
.code32
.globl _start
_start:
    mov esp, 0x90000
    mov esi, [ebx + 24]         # hvm_start_info.cmdline_paddr
1:  lodsb
    test al, al
    jz 3f
    mov ah, al
    mov dx, 0x3fd
2:  in al, dx
    test al, 0x20
    jz 2b
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    jmp 1b
3:  mov eax, cr0
    test eax, 0x80000001        # PE, not PG
    js 4f
    jz 4f
    mov dx, 0x604
    mov ax, 5 << 10 | 1 << 13
    out dx, ax
4:  ud2

    .section .note.Xen, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long _start
"""

PVH_LINK = """
PHDRS { text PT_LOAD; note PT_NOTE; }
SECTIONS { . = 0x200000; .text : { *(.text) } :text
           .note : { *(.note.Xen) } :text :note /DISCARD/ : { *(.note.gnu*) } }
"""


def pvh_kernel() -> bytes:
    """An ELF with a PVH entry: prints its command line and powers off."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "t.s").write_text(PVH)
        (directory / "t.ld").write_text(PVH_LINK)
        for command in (
            ["as", "-o", "t.o", "t.s"],
            ["ld", "-e", "_start", "-T", "t.ld", "-o", "t.elf", "t.o"],
        ):
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        return (directory / "t.elf").read_bytes()


def kernel(body: str) -> bytes:
    """A bzImage that does `body`."""
    code = bytes(0x200) + assemble(body)
    code += bytes(-len(code) % 16)
    return bzimage(code, init_size=0x10000)
