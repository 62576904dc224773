"""The 64-bit boot protocol: a made-up bzImage byte by byte, and Debian's real one."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from kvm_core.errors import ConfigError
from tests.boot.bzimage import bzimage
from tests.boot.fakevm import board
from tests.boot.images import image, payload
from vmmuser import assets
from vmmuser.boot import linux, lowmem
from vmmuser.boot.payload import Payload, open_image
from vmmuser.config import MachineConfig
from vmmuser.memory import GuestMemory


def boot(
    kernel: bytes, mib: int = 64, initrd: bytes = b"", cmdline: str = "console=ttyS0"
) -> tuple[linux.Entry, GuestMemory]:
    with (
        board(MachineConfig(kernel="", memory_mib=mib)) as (microvm, memory),
        closing(payload(kernel, initrd, cmdline)) as files,
    ):
        entry = microvm.boot(files)
        copy = GuestMemory([(0, mib << 20)])
        copy.write(0, memory.view(0, mib << 20))
        return entry, copy


def params(memory: GuestMemory) -> bytes:
    return memory.read(lowmem.BOOT_PARAMS, 4096)


def test_kernel_goes_to_its_preferred_address() -> None:
    entry, memory = boot(bzimage())
    assert entry.mode == "long"
    assert entry.rip == 0x1000200
    assert memory.read(0x1000000, 8192) == bytes(range(256)) * 32
    assert entry.regs["rsi"] == lowmem.BOOT_PARAMS


def test_relocatable_kernel_needs_its_preferred_address_too() -> None:
    """Put lower it would move itself there: Debian's triple-faulted in 64 MiB, and boots in 80."""
    with pytest.raises(ConfigError, match="needs 20 MiB"):
        boot(bzimage(init_size=0x400000), mib=16)
    entry, _ = boot(bzimage(init_size=0x400000, pref_address=0x234567), mib=16)
    assert entry.rip == 0x400200  # aligned


def test_fixed_kernel_stays() -> None:
    entry, _ = boot(bzimage(relocatable=0, pref_address=0x1234000))
    assert entry.rip == 0x1234200
    with pytest.raises(ConfigError, match="needs 20 MiB"):
        boot(bzimage(relocatable=0, pref_address=0x1234000), mib=16)


def test_init_size_needs_memory() -> None:
    with pytest.raises(ConfigError, match=r"--kernel KERNEL: needs \d+ MiB of memory"):
        boot(bzimage(init_size=0x4000000), mib=64)


def test_boot_params() -> None:
    _, memory = boot(bzimage())
    page = params(memory)
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert page[0x211] & 1
    assert struct.unpack_from("<I", page, 0x214)[0] == 0x1000000
    assert struct.unpack_from("<Q", page, 0x070)[0] == 0xE0000
    cmdline = struct.unpack_from("<I", page, 0x228)[0]
    assert memory.read(cmdline, 14) == b"console=ttyS0\0"
    assert page[0x26C:0x2D0] == bytes(0x2D0 - 0x26C)  # nothing behind the header is copied
    assert page[:0x70] == bytes(0x70)


def test_e820() -> None:
    _, memory = boot(bzimage())
    page = params(memory)
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
    assert entries[0] == (0, 0x9FC00, 1)
    assert (0x100000, (64 << 20) - 0x100000, 1) in entries
    ordered = sorted(entries)
    assert entries == ordered
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(ordered))


def test_initrd_is_high_aligned_and_whole() -> None:
    initrd = bytes(range(256)) * 33
    _, memory = boot(bzimage(), initrd=initrd)
    address, size = struct.unpack_from("<II", params(memory), 0x218)
    assert size == len(initrd)
    assert address % 4096 == 0
    assert (64 << 20) - address - size < 4096
    assert memory.read(address, size) == initrd


def test_initrd_respects_its_ceiling() -> None:
    _, memory = boot(bzimage(initrd_max=0x2FFFFFF), initrd=b"x" * 5000)
    address, size = struct.unpack_from("<II", params(memory), 0x218)
    assert address + size <= 0x3000000


def test_initrd_larger_than_memory() -> None:
    with pytest.raises(ConfigError, match="--initrd INITRD: 50 MiB do not fit"):
        boot(bzimage(), initrd=bytes(50 << 20))


def test_long_command_line() -> None:
    boot(bzimage(), cmdline="x" * 2047)
    with pytest.raises(ConfigError, match="--append: 2048 bytes"):
        boot(bzimage(), cmdline="x" * 2048)


def test_page_tables_map_four_gigabytes_to_themselves() -> None:
    entry, memory = boot(bzimage())

    def walk(address: int) -> int:
        table = entry.cr3
        for shift in (39, 30):
            at = table + 8 * (address >> shift & 511)
            value = struct.unpack("<Q", memory.read(at, 8))[0]
            assert value & 3 == 3
            table = value & ~0xFFF
        value = struct.unpack("<Q", memory.read(table + 8 * (address >> 21 & 511), 8))[0]
        assert value & 0x83 == 0x83
        return int(value & ~0x1FFFFF | address & 0x1FFFFF)

    for address in (0, 0x7000, 0x20000, 0x1000200, 0x3FFFFFFF, 0x40000000, 0xFEE00000, 0xFFFFFFFF):
        assert walk(address) == address


def test_gdt_has_the_selectors_that_the_protocol_asks_for() -> None:
    entry, memory = boot(bzimage())
    gdt = memory.read(entry.gdt, entry.gdt_limit + 1)
    code = int.from_bytes(gdt[0x10:0x18], "little")
    data = int.from_bytes(gdt[0x18:0x20], "little")
    assert code >> 40 & 0x9B == 0x9B
    assert code >> 53 & 1  # L
    assert data >> 40 & 0x93 == 0x93


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (b"", "is not a Linux bzImage"),
        (b"MZ" + bytes(2000), "is not a Linux bzImage"),
        (bzimage()[:0x220], "is not a Linux bzImage"),
        (bzimage(version=0x20B), "no 64-bit entry"),
        (bzimage(xloadflags=0), "no 64-bit entry"),
        (bzimage()[:5000], "cut short by"),
        (bzimage(alignment=0x300000), "alignment"),
    ],
)
def test_broken_kernels(kernel: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        boot(kernel)


def test_kernel_that_was_replaced_or_cut_meanwhile(tmp_path: Path) -> None:
    """A reset boots from the file that was opened at the start."""
    path = tmp_path / "kernel"
    path.write_bytes(bzimage())
    with (
        board(MachineConfig(kernel="", memory_mib=64)) as (microvm, memory),
        closing(Payload(open_image("--kernel", str(path), "a kernel"))) as files,
    ):
        path.rename(tmp_path / "old")
        path.write_bytes(b"new")
        microvm.boot(files)
        assert memory.read(0x1000000, 256) == bytes(range(256))
        os.truncate(tmp_path / "old", 4096)
        with pytest.raises(ConfigError, match=r"--kernel .*/kernel: is cut short"):
            microvm.boot(files)


def test_debians_kernel(need: Callable[[bool, str], None]) -> None:
    need(Path(assets.CLOUD.kernel).is_file(), "Debian's kernel (make assets)")
    kernel = Path(assets.CLOUD.kernel).read_bytes()
    entry, memory = boot(kernel, mib=256)
    with closing(image(kernel)) as file:
        header = linux.SetupHeader(file)
    assert entry.rip == header.pref_address + 0x200
    body = kernel[header.setup_bytes :]
    assert memory.read(header.pref_address, len(body)) == body
