"""The ACPI tables of a board (ACPI 6.4, chapter 5): RSDP, XSDT, FADT, FACS, MADT, and its DSDT
around our AML.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

OEM_ID, OEM_TABLE_ID, CREATOR_ID = b"KVMISH", b"KVMISH  ", b"KVMI"

# FADT flags (table 5.10) and IA-PC boot architecture flags (table 5.11).
WBINVD, PROC_C1, SLP_BUTTON, FIX_RTC, RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 6, 1 << 10
BOOT_LEGACY_DEVICES, BOOT_8042, BOOT_NO_VGA, BOOT_NO_MSI, BOOT_NO_ASPM = 1, 2, 4, 8, 16

LOCAL_APIC_ADDRESS, IOAPIC_ADDRESS = 0xFEE00000, 0xFEC00000


class Fixed(NamedTuple):
    """Where the fixed hardware is: ports, and what to write to them."""

    sci: int
    pm1_event: int
    pm1_control: int
    reset_port: int
    reset_value: int
    century: int
    boot_flags: int = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_MSI | BOOT_NO_ASPM


class Interrupts(NamedTuple):
    """What the MADT tells: vCPUs by APIC id, and GSIs that are not as ISA has them."""

    apic_ids: list[int]
    overrides: Sequence[tuple[int, int, int]] = ()  # (ISA irq, GSI, flags)


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Put the common header in front, with length and checksum (5.2.6)."""
    head = struct.pack(
        "<4sIBB6s8sI4sI",
        signature,
        36 + len(body),
        revision,
        0,
        OEM_ID,
        OEM_TABLE_ID,
        1,
        CREATOR_ID,
        1,
    )
    raw = bytearray(head + body)
    raw[9] = -sum(raw) & 0xFF
    return bytes(raw)


def _gas_io(port: int, bits: int) -> bytes:
    """A generic address structure in port space (5.2.3.2)."""
    access = {8: 1, 16: 2, 32: 3}[bits]
    return struct.pack("<BBBBQ", 1, bits, 0, access if port else 0, port)


_NO_ADDRESS = bytes(12)


def fadt(fixed: Fixed, facs: int, dsdt: int) -> bytes:
    """FADT revision 6.3 (5.2.9): ACPI hardware with PM1 blocks, always in ACPI mode, no PM timer,
    no GPEs.
    """
    flags = WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | RESET_REG_SUP
    body = struct.pack("<IIBBH", facs, dsdt, 0, 0, fixed.sci)
    body += struct.pack("<IBBBB", 0, 0, 0, 0, 0)  # no SMI command port
    body += struct.pack("<8I", fixed.pm1_event, 0, fixed.pm1_control, 0, 0, 0, 0, 0)
    body += bytes((4, 2, 0, 0, 0, 0, 0, 0))  # block lengths
    body += struct.pack("<HHHH", 101, 1001, 0, 0)  # no C2, no C3; caches flush by WBINVD
    body += bytes((0, 0, 0, 0, fixed.century))
    body += struct.pack("<HBI", fixed.boot_flags, 0, flags)
    body += _gas_io(fixed.reset_port, 8) + bytes((fixed.reset_value,))
    body += struct.pack("<HB", 0, 3)
    body += struct.pack("<QQ", 0, dsdt)  # X_FIRMWARE_CTRL stays 0: the 32-bit one is in use
    body += _gas_io(fixed.pm1_event, 32) + _NO_ADDRESS
    body += _gas_io(fixed.pm1_control, 16) + _NO_ADDRESS
    body += _NO_ADDRESS * 4
    body += _NO_ADDRESS * 2 + bytes(8)
    return table(b"FACP", 6, body)


def facs() -> bytes:
    """The firmware control structure, which has no checksum (5.2.10)."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


def madt(interrupts: Interrupts) -> bytes:
    """MADT (5.2.12): every vCPU's LAPIC or x2APIC, one IOAPIC, overrides, NMI on LINT1."""
    body = struct.pack("<II", LOCAL_APIC_ADDRESS, 1)  # PCAT_COMPAT: two 8259 are there
    for uid, apic_id in enumerate(interrupts.apic_ids):
        if apic_id < 255:
            body += struct.pack("<BBBBI", 0, 8, uid & 0xFF, apic_id, 1)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, 1, uid)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, IOAPIC_ADDRESS, 0)
    for isa, gsi, flags in interrupts.overrides:
        body += struct.pack("<BBBBIH", 2, 10, 0, isa, gsi, flags)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    return table(b"APIC", 5, body)


def xsdt(addresses: list[int]) -> bytes:
    """XSDT (5.2.8)."""
    return table(b"XSDT", 1, b"".join(struct.pack("<Q", address) for address in addresses))


def rsdp(xsdt_address: int) -> bytes:
    """RSDP revision 2 (5.2.5.3)."""
    raw = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, 0, 36, xsdt_address, 0))
    raw[8] = -sum(raw[:20]) & 0xFF
    raw[32] = -sum(raw) & 0xFF
    return bytes(raw)


class Placed(NamedTuple):
    """All tables as one image for address `base`; `rsdp` is where to point a kernel."""

    base: int
    image: bytes
    rsdp: int


def place(base: int, fixed: Fixed, interrupts: Interrupts, aml: bytes) -> Placed:
    """Lay the tables out behind one another from `base`, which is 64-byte aligned; the RSDP comes
    first.
    """
    image = bytearray(64)

    def add(data: bytes) -> int:
        image.extend(bytes(-len(image) % 64))
        address = base + len(image)
        image.extend(data)
        return address

    facs_at = add(facs())
    dsdt_at = add(table(b"DSDT", 2, aml))
    fadt_at = add(fadt(fixed, facs_at, dsdt_at))
    madt_at = add(madt(interrupts))
    xsdt_at = add(xsdt([fadt_at, madt_at]))
    image[:36] = rsdp(xsdt_at)
    return Placed(base, bytes(image), base)
