"""The structures a 64-bit kernel entry needs in low memory: a GDT and page tables that map it to
itself.
"""

from __future__ import annotations

import struct

from vmmuser.memory import GuestMemory

GDT = 0x500
PAGE_TABLES = 0x9000  # PML4, PDPT, four page directories: 6 pages, up to 0xF000
BOOT_PARAMS = 0x7000
PVH_INFO = 0x6000
CMDLINE = 0x20000
CMDLINE_MAX = 0x10000

CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR = 0x10, 0x18, 0x20

_PRESENT_WRITE = 0x03
_LARGE = 0x80


def write_gdt(memory: GuestMemory, long_mode: bool) -> int:
    """Write flat descriptors at the selectors above; the limit of the table."""
    code = 0x00AF9B000000FFFF if long_mode else 0x00CF9B000000FFFF
    data = 0x00CF93000000FFFF
    tss = 0x00008B0000000067  # a busy 32-bit TSS of minimal size; its second half (64-bit) is null
    memory.write(GDT, struct.pack("<6Q", 0, 0, code, data, tss, 0))
    return 6 * 8 - 1


def write_page_tables(memory: GuestMemory) -> int:
    """Map the first 4 GiB to themselves with 2 MiB pages; the value for CR3."""
    pml4, pdpt = PAGE_TABLES, PAGE_TABLES + 0x1000
    memory.write(pml4, struct.pack("<Q", pdpt | _PRESENT_WRITE).ljust(4096, b"\0"))
    directories = [PAGE_TABLES + 0x2000 + 0x1000 * i for i in range(4)]
    entries = struct.pack("<4Q", *(at | _PRESENT_WRITE for at in directories))
    memory.write(pdpt, entries.ljust(4096, b"\0"))
    for i, at in enumerate(directories):
        pages = ((i << 30 | j << 21) | _PRESENT_WRITE | _LARGE for j in range(512))
        memory.write(at, struct.pack("<512Q", *pages))
    return pml4
