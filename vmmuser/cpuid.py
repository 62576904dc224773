"""The topology in CPUID: which of how many processors a vCPU is. (Models: kvm_core.models.)"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from kvm_core import abi
from kvm_core.abi import KvmCpuidEntry2


def _copy(entry: KvmCpuidEntry2) -> KvmCpuidEntry2:
    return KvmCpuidEntry2.from_buffer_copy(bytes(entry))


def vendor(entries: Iterable[KvmCpuidEntry2]) -> str:
    """The vendor string of leaf 0."""
    for entry in entries:
        if entry.function == 0:
            return struct.pack("<III", entry.ebx, entry.edx, entry.ecx).decode("ascii", "replace")
    return ""


def physical_address_bits(entries: Iterable[KvmCpuidEntry2]) -> int:
    """MAXPHYADDR."""
    for entry in entries:
        if entry.function == 0x80000008:
            return entry.eax & 0xFF or 36
    return 36


def for_vcpu(entries: list[KvmCpuidEntry2], apic_id: int, count: int) -> list[KvmCpuidEntry2]:
    """Write the topology in: one socket of `count` cores of one thread each, this one being
    `apic_id`.
    """
    width = (count - 1).bit_length()
    amd = vendor(entries) == "AuthenticAMD"
    result = []
    for original in entries:
        entry = _copy(original)
        match entry.function:
            case 1:
                entry.ebx = entry.ebx & 0xFFFF | min(count, 255) << 16 | (apic_id & 0xFF) << 24
                entry.ecx |= 1 << 24 | 1 << 31  # TSC deadline (the VMM's to offer), hypervisor
                entry.edx = entry.edx & ~(1 << 28) | (1 << 28 if count > 1 else 0)
            case 4:
                _cache_topology(entry, count, width)
            case 0xB | 0x1F:
                continue
            case 0x80000001 if amd:
                entry.ecx = entry.ecx & ~2 | (2 if count > 1 else 0)
            case 0x80000008 if amd:
                entry.ecx = width << 12 | (count - 1 & 0xFF)
            case 0x8000001D:
                private = entry.eax >> 5 & 7 < 3
                entry.eax = entry.eax & ~0x03FFC000 | (0 if private else count - 1) << 14
            case 0x8000001E:
                entry.eax, entry.ebx, entry.ecx = apic_id, apic_id & 0xFF, 0
        result.append(entry)
    if any(entry.function == 0 and entry.eax >= 0xB for entry in result):
        result += _extended_topology(apic_id, count, width)
    return result


def _cache_topology(entry: KvmCpuidEntry2, count: int, width: int) -> None:
    if not entry.eax & 0x1F:
        return
    private = entry.eax >> 5 & 7 < 3
    sharing = 0 if private else count - 1
    entry.eax = entry.eax & 0x3FFF | sharing << 14 | ((1 << width) - 1) << 26


def _extended_topology(apic_id: int, count: int, width: int) -> list[KvmCpuidEntry2]:
    """Leaf 0Bh: thread level, core level, end."""
    levels = [(0, 1, 1 << 8), (width, count, 2 << 8 | 1), (0, 0, 2)]
    return [
        KvmCpuidEntry2(
            function=0xB,
            index=index,
            flags=abi.CPUID_FLAG_SIGNIFCANT_INDEX,
            eax=shift,
            ebx=number,
            ecx=ecx,
            edx=apic_id,
        )
        for index, (shift, number, ecx) in enumerate(levels)
    ]
