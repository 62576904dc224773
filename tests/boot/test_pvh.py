"""Boot by PVH: made-up ELF files, whole and damaged."""

from __future__ import annotations

import struct
from contextlib import closing

import pytest

from kvm_core.errors import ConfigError
from tests.boot.fakevm import board
from tests.boot.images import image as file_of
from tests.boot.images import payload
from vmmuser.boot import pvh
from vmmuser.config import MachineConfig

ENTRY = 0x1000123


def note(kind: int, desc: bytes, name: bytes = b"Xen\0") -> bytes:
    raw = struct.pack("<III", len(name), len(desc), kind)
    return raw + name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)


def elf(
    notes: bytes = note(6, b"linux\0") + note(18, struct.pack("<I", ENTRY)),
    paddr: int = 0x1000000,
    bss: int = 0x100,
    machine: int = 62,
) -> bytes:
    text = b"kernel text" * 100
    phoff, text_at = 64, 64 + 2 * 56
    note_at = text_at + len(text)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        machine,
        1,
        0xFFFFFFFF81000000,
        phoff,
        0,
        0,
        64,
        56,
        2,
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, text_at, 0, paddr, len(text), len(text) + bss, 4096)
    notes_header = struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(notes), len(notes), 4)
    return header + load + notes_header + text + notes


def test_boot() -> None:
    initrd = b"initrd" * 1000
    with (
        board(MachineConfig(kernel="", memory_mib=64)) as (microvm, memory),
        closing(payload(elf(), initrd, "a=b")) as files,
    ):
        memory.write(0x1000000 + 1100, b"\xff" * 0x100)
        entry = microvm.boot(files)
        assert entry.mode == "protected"
        assert entry.rip == ENTRY
        assert memory.read(0x1000000, 1100) == b"kernel text" * 100
        assert memory.read(0x1000000 + 1100, 0x100) == bytes(0x100)
        info = struct.unpack("<IIIIQQQQII", memory.read(entry.regs["rbx"], 56))
        magic, version, _, modules, module_at, cmdline, rsdp, map_at, entries, _ = info
        assert (magic, version, modules) == (0x336EC578, 1, 1)
        assert memory.read(cmdline, 4) == b"a=b\0"
        assert memory.read(rsdp, 8) == b"RSD PTR "
        address, size, _, _ = struct.unpack("<QQQQ", memory.read(module_at, 32))
        assert memory.read(address, size) == initrd
        table = [struct.unpack("<QQII", memory.read(map_at + 24 * i, 24)) for i in range(entries)]
        assert table[0] == (0, 0x9FC00, 1, 0)
        gdt = memory.read(entry.gdt, entry.gdt_limit + 1)
        assert gdt[0x16] & 0xF0 == 0xC0  # 32-bit code, page granular


def test_entry_note_of_eight_bytes() -> None:
    with closing(file_of(elf(notes=note(18, struct.pack("<Q", ENTRY))))) as kernel:
        assert pvh.pvh_entry(kernel, pvh.segments(kernel)) == ENTRY


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (elf(notes=note(6, b"x")), "without a PVH entry note"),
        (elf(notes=note(18, b"\0\0\0\1", b"GNU\0")), "without a PVH entry note"),
        (elf(notes=b"\xff" * 64), "without a PVH entry note"),
        (elf(paddr=0x10000000), "needs 257 MiB"),
        (elf()[:500], "cut short by"),
        (elf()[:100], "cut short"),
        (elf()[:5], "cut short"),
        (elf(machine=183), "another machine"),
        (b"\x7fELF\x07" + bytes(100), "unknown class"),
    ],
)
def test_broken_files(image: bytes, message: str) -> None:
    with (
        board(MachineConfig(kernel="", memory_mib=64)) as (microvm, _),
        closing(payload(image)) as files,
        pytest.raises(ConfigError, match=message),
    ):
        microvm.boot(files)
