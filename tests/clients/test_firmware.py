"""Firmware that brings its own ideas of a processor: SeaBIOS, GRUB behind it, and OVMF; on QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import console, qemu
from vmmuser.assets import CLOUD, SELFCHECK_MARK

LIMIT_S = 120
OVMF = Path("/usr/share/OVMF")

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

# Reached by SeaBIOS at 0:7c00h; prints by the UART, and leaves by a triple fault.
BOOT_SECTOR = """
.code16
.globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    ljmp $0, $1f
1:  mov $text, %si
2:  lodsb
    test %al, %al
    jz 4f
    mov %al, %ah
    mov $0x3fd, %dx
3:  in %dx, %al
    test $0x20, %al
    jz 3b
    mov %ah, %al
    mov $0x3f8, %dx
    out %al, %dx
    jmp 2b
4:  lidt none
    int3
none: .word 0
    .long 0
text: .asciz "boot sector reached\\n"
    .org 510
    .word 0xaa55
"""

GRUB_CFG = """
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
echo "grub: menu reached"
linux /boot/vmlinuz console=ttyS0 kvmish.selfcheck
initrd /boot/initrd.img
boot
"""


def _qemu(*options: str | Path, machine: str = "pc", memory_mb: int = 64) -> list[str]:
    words = [qemu.KVMISH, "exec", "--", "qemu-system-x86_64", "-accel", "kvm", "-M", machine]
    words += [*qemu.COMMON.split(), "-m", str(memory_mb), *options]
    return [str(word) for word in words]


@pytest.fixture(autouse=True)
def _qemu_is_here(need: Callable[[object, str], None]) -> None:
    need(shutil.which("qemu-system-x86_64"), "qemu-system-x86")


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_seabios_to_a_boot_sector(tmp_path: Path, machine: str) -> None:
    source, code, disk = (tmp_path / name for name in ("boot.s", "boot.o", "boot.img"))
    source.write_text(BOOT_SECTOR)
    subprocess.run(["as", "-o", code, source], check=True)
    link = ["ld", "-Ttext", "0x7c00", "--oformat", "binary", "-o", disk, code]
    subprocess.run(link, check=True)
    os.truncate(disk, 1 << 20)  # SeaBIOS reads no AHCI disk of one sector
    drive = f"file={disk},format=raw,if=ide,snapshot=on"
    done = console.run(_qemu("-drive", drive, machine=machine), LIMIT_S)
    assert done.has("boot sector reached"), done.tail()
    assert done.status == 0, done.tail()  # -no-reboot: the triple fault ends it


def test_seabios_to_grub_to_linux(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    for program, package in (
        ("grub-mkrescue", "grub-common"),
        ("xorriso", "xorriso"),
        ("mformat", "mtools"),
    ):
        need(shutil.which(program), package)
    need(Path("/usr/lib/grub/i386-pc").is_dir(), "grub-pc-bin")
    need(CLOUD.ready(), "Debian's kernel (make assets)")
    boot, image = tmp_path / "iso" / "boot", tmp_path / "grub.iso"
    (boot / "grub").mkdir(parents=True)
    (boot / "grub" / "grub.cfg").write_text(GRUB_CFG)
    shutil.copy(CLOUD.kernel, boot / "vmlinuz")
    shutil.copy(CLOUD.initrd, boot / "initrd.img")
    make = ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", image, tmp_path / "iso"]
    subprocess.run(make, check=True, capture_output=True)
    done = console.run(_qemu("-cdrom", image, memory_mb=256), LIMIT_S)
    assert done.has("grub: menu reached"), done.tail()
    assert done.has(SELFCHECK_MARK), done.tail()
    assert done.status == 0, done.tail()


def _ovmf(directory: Path, need: Callable[[object, str], None]) -> list[str | Path]:
    code = OVMF / "OVMF_CODE.fd"
    need(code.is_file(), "ovmf")
    variables = directory / "vars.fd"
    shutil.copy(OVMF / "OVMF_VARS.fd", variables)
    kinds = (
        f"if=pflash,format=raw,readonly=on,file={code}",
        f"if=pflash,format=raw,file={variables}",
    )
    return [word for kind in kinds for word in ("-drive", kind)]


def test_ovmf_to_its_shell(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    command = _qemu(*_ovmf(tmp_path, need), machine="q35", memory_mb=128)
    answers = [("Press ", "\x1b"), ("Shell>", "reset -s\r")]
    done = console.run(command, LIMIT_S, answers=answers)
    assert done.has("UEFI Interactive Shell"), done.tail()
    assert done.status == 0, done.tail()


@pytest.mark.full
def test_ovmf_to_linux(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    """Debian's kernel as an EFI program, with the firmware's run-time services."""
    need(CLOUD.ready(), "Debian's kernel (make assets)")
    linux = ("-kernel", CLOUD.kernel, "-initrd", CLOUD.initrd)
    options = (*_ovmf(tmp_path, need), *linux, "-append", "console=ttyS0 kvmish.selfcheck")
    done = console.run(_qemu(*options, machine="q35", memory_mb=512), LIMIT_S)
    assert done.has("EFI v2"), done.tail()
    assert done.has(SELFCHECK_MARK), done.tail()
    assert done.status == 0, done.tail()
