"""Boot an ELF kernel by its PVH entry (Xen's docs/misc/pvh.pandoc and
public/arch-x86/hvm/start_info.h).
"""

from __future__ import annotations

import struct

from kvm_core.errors import ConfigError
from vmmuser.boot import lowmem
from vmmuser.boot.payload import Entry, Image, MemoryMap, Payload, load_initrd
from vmmuser.memory import BadAddressError, GuestMemory

ELF_MAGIC = b"\x7fELF"
NOTES_MAX = 1 << 20  # bytes of a segment of notes; Linux has some hundreds
PT_LOAD, PT_NOTE = 1, 4
XEN_ELFNOTE_PHYS32_ENTRY = 18
START_INFO_MAGIC = 0x336EC578

_EHDR64 = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR64 = struct.Struct("<IIQQQQQQ")
_EHDR32 = struct.Struct("<16sHHIIIIIHHHHHH")
_PHDR32 = struct.Struct("<IIIIIIII")


class Segment:
    """A program header's facts."""

    __slots__ = ("file_offset", "file_size", "kind", "memory_size", "paddr")

    def __init__(self, kind: int, offset: int, paddr: int, filesz: int, memsz: int) -> None:
        """Sizes in bytes."""
        self.kind = kind
        self.file_offset = offset
        self.paddr = paddr
        self.file_size = filesz
        self.memory_size = memsz


def is_elf(kernel: Image) -> bool:
    """Say whether this looks like an ELF file at all."""
    return kernel.read(0, 4) == ELF_MAGIC


def segments(kernel: Image) -> list[Segment]:
    """Read the program headers. :raise ConfigError: if the file is cut short or for another
    machine.
    """
    name = kernel.name
    head = kernel.read(0, _EHDR64.size)
    try:
        if head[4] == 2:
            ehdr = _EHDR64.unpack_from(head)
            phdr = _PHDR64
        elif head[4] == 1:
            ehdr = _EHDR32.unpack_from(head)
            phdr = _PHDR32
        else:
            raise ConfigError(f"--kernel {name}: an ELF file of unknown class; get it again")
        if head[5] != 1 or ehdr[2] not in (3, 62):
            raise ConfigError(f"--kernel {name}: an ELF file for another machine; name an x86 one")
        phoff, phentsize, phnum = ehdr[5], ehdr[9], ehdr[10]
        found = []
        for i in range(phnum):
            fields = phdr.unpack(kernel.read(phoff + i * max(phentsize, phdr.size), phdr.size))
            if phdr is _PHDR64:
                kind, _, offset, _, paddr, filesz, memsz, _ = fields
            else:
                kind, offset, _, paddr, filesz, memsz, _, _ = fields
            if filesz > memsz and kind == PT_LOAD:
                raise ConfigError(f"--kernel {name}: a damaged ELF file; get it again")
            if kind in (PT_LOAD, PT_NOTE) and offset + filesz > kernel.size:
                missing = offset + filesz - kernel.size
                raise ConfigError(f"--kernel {name}: is cut short by {missing} bytes; get it again")
            found.append(Segment(kind, offset, paddr, filesz, memsz))
        return found
    except (struct.error, IndexError):
        raise ConfigError(f"--kernel {name}: is cut short; get it again") from None


def pvh_entry(kernel: Image, parts: list[Segment]) -> int:
    """Find XEN_ELFNOTE_PHYS32_ENTRY. :raise ConfigError: if there is none."""
    for part in parts:
        if part.kind != PT_NOTE:
            continue
        notes = kernel.read(part.file_offset, min(part.file_size, NOTES_MAX))
        at, end = 0, len(notes)
        while at + 12 <= end:
            name_size, desc_size, kind = struct.unpack_from("<III", notes, at)
            name_at = at + 12
            desc_at = name_at + (name_size + 3 & ~3)
            if desc_at + desc_size > end:
                break
            if kind == XEN_ELFNOTE_PHYS32_ENTRY and notes[name_at : name_at + 4] == b"Xen\0":
                return int.from_bytes(notes[desc_at : desc_at + min(desc_size, 8)], "little")
            at = desc_at + (desc_size + 3 & ~3)
    raise ConfigError(
        f"--kernel {kernel.name}: an ELF file without a PVH entry note; name a bzImage, or a "
        "vmlinux built with CONFIG_PVH"
    )


def load(memory: GuestMemory, map_: MemoryMap, payload: Payload, rsdp: int) -> Entry:
    """Put the segments, the initrd and hvm_start_info into memory. :raise ConfigError: if they do
    not fit.
    """
    kernel = payload.kernel
    parts = segments(kernel)
    entry = pvh_entry(kernel, parts)
    top = 1 << 20
    for part in parts:
        if part.kind != PT_LOAD or not part.memory_size:
            continue
        try:
            target = memory.view(part.paddr, part.memory_size)
        except BadAddressError:
            need = (part.paddr + part.memory_size >> 20) + 1
            raise ConfigError(
                f"--kernel {kernel.name}: needs {need} MiB of memory; give more with -m"
            ) from None
        kernel.load(part.file_offset, target[: part.file_size])
        target[part.file_size :] = bytes(part.memory_size - part.file_size)
        top = max(top, part.paddr + part.memory_size)

    modules = 0
    info_at = lowmem.PVH_INFO
    module_at, map_at = info_at + 0x40, info_at + 0x80
    if payload.initrd:
        # Linux wants the space behind its image for early page tables, so the initrd goes on top.
        address = load_initrd(memory, payload.initrd, top, map_.low_top)
        memory.write(module_at, struct.pack("<QQQQ", address, payload.initrd.size, 0, 0))
        modules = 1
    cmdline = payload.cmdline_bytes() + b"\0"
    if len(cmdline) > lowmem.CMDLINE_MAX:
        raise ConfigError(f"--append: {len(cmdline)} bytes are too long; shorten it")
    memory.write(lowmem.CMDLINE, cmdline)
    entries = b"".join(struct.pack("<QQII", at, size, kind, 0) for at, size, kind in map_.e820)
    memory.write(map_at, entries)
    info = struct.pack(
        "<IIIIQQQQII",
        START_INFO_MAGIC,
        1,
        0,
        modules,
        module_at if modules else 0,
        lowmem.CMDLINE,
        rsdp,
        map_at,
        len(map_.e820),
        0,
    )
    memory.write(info_at, info)
    limit = lowmem.write_gdt(memory, long_mode=False)
    return Entry(
        mode="protected",
        rip=entry,
        regs={"rbx": info_at, "rsp": 0x8000},
        gdt=lowmem.GDT,
        gdt_limit=limit,
    )
