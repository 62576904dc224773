"""CPU models: what a guest sees in CPUID, made from what the core supports, by mask and by
topology.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from kvm_core import abi
from kvm_core.abi import KvmCpuidEntry2
from kvm_core.errors import ConfigError

MODELS = ("host", "x86-64-v3", "x86-64-v2", "qemu64")

# Feature names by word and bit (SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
_BITS: dict[tuple[int, int, str], str] = {
    (
        1,
        0,
        "ecx",
    ): "0:sse3 1:pclmulqdq 3:monitor 9:ssse3 12:fma 13:cx16 17:pcid 19:sse4_1 20:sse4_2 "
    "21:x2apic 22:movbe 23:popcnt 24:tsc_deadline 25:aes 26:xsave 27:osxsave 28:avx 29:f16c "
    "30:rdrand 31:hypervisor",
    (
        1,
        0,
        "edx",
    ): "0:fpu 1:vme 2:de 3:pse 4:tsc 5:msr 6:pae 7:mce 8:cx8 9:apic 11:sep 12:mtrr 13:pge "
    "14:mca 15:cmov 16:pat 17:pse36 19:clflush 23:mmx 24:fxsr 25:sse 26:sse2 28:htt",
    (
        7,
        0,
        "ebx",
    ): "0:fsgsbase 1:tsc_adjust 3:bmi1 5:avx2 7:smep 8:bmi2 9:erms 10:invpcid 18:rdseed "
    "19:adx 20:smap 23:clflushopt 24:clwb 29:sha",
    (7, 0, "ecx"): "2:umip 3:pku 4:ospke 16:la57 22:rdpid",
    # What the core says of vulnerabilities, in every model: MD_CLEAR, SPEC_CTRL, STIBP, L1D_FLUSH,
    # ARCH_CAPABILITIES, SSBD. Not FSRM, which Linux believes without ERMS.
    (7, 0, "edx"): "10:kept 26:kept 27:kept 28:kept 29:kept 31:kept",
    (7, 1, "eax"): "",
    (0x80000001, 0, "ecx"): "0:lahf_lm 1:cmp_legacy 5:abm 6:sse4a 8:prefetchw",
    (
        0x80000001,
        0,
        "edx",
    ): "0:fpu 1:vme 2:de 3:pse 4:tsc 5:msr 6:pae 7:mce 8:cx8 9:apic 11:syscall "
    "12:mtrr 13:pge 14:mca 15:cmov 16:pat 17:pse36 20:nx 23:mmx 24:fxsr 25:fxsr_opt 26:pdpe1gb "
    "27:rdtscp 29:lm",
}

_BASELINE = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse "
    "sse2 syscall nx lm x2apic tsc_deadline hypervisor htt cmp_legacy kept"
)
_QEMU64 = _BASELINE + " sse3 cx16 lahf_lm"
_V2 = _QEMU64 + " ssse3 sse4_1 sse4_2 popcnt rdtscp tsc_adjust fxsr_opt pdpe1gb smep umip"
_V3 = (
    _V2
    + " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave osxsave fsgsbase erms pcid invpcid smap rdrand "
    "rdseed adx aes pclmulqdq clflushopt clwb prefetchw"
)
_MODEL_FEATURES = {"qemu64": _QEMU64, "x86-64-v2": _V2, "x86-64-v3": _V3}


def _mask(word: tuple[int, int, str], features: set[str]) -> int:
    mask = 0
    for item in _BITS[word].split():
        bit, name = item.split(":")
        if name in features:
            mask |= 1 << int(bit)
    return mask


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


def model(supported: list[KvmCpuidEntry2], name: str) -> list[KvmCpuidEntry2]:
    """Mask the supported CPUID down to a model. :raise ConfigError: for an unknown name."""
    if name not in MODELS:
        raise ConfigError(f"--cpu {name}: no such model; choose one of {', '.join(MODELS)}")
    entries = [_copy(entry) for entry in supported]
    if name == "host":
        return entries
    features = set(_MODEL_FEATURES[name].split())
    kept = []
    for entry in entries:
        function, index = entry.function, entry.index
        for word in _BITS:
            if (function, index) == word[:2]:
                setattr(entry, word[2], getattr(entry, word[2]) & _mask(word, features))
        if function == 0xD and not _fit_xsave(entry, features):
            continue
        if 0x80000002 <= function <= 0x80000004:
            _set_brand(entry, f"kvmish {name}")
        kept.append(entry)
    return kept


def _fit_xsave(entry: KvmCpuidEntry2, features: set[str]) -> bool:
    """Cut the XSAVE leaf down to x87, SSE and AVX; False: leave the subleaf out."""
    if "xsave" not in features:
        return False
    if entry.index == 0:
        entry.eax &= 0x7
        entry.edx = 0
        entry.ecx = entry.ebx = 832 if entry.eax & 4 else 576
    elif entry.index == 1:
        entry.eax &= 0x3  # XSAVEOPT, XSAVEC; no supervisor states
        entry.ebx = entry.ecx = entry.edx = 0
    else:
        return bool(entry.index == 2)
    return True


def _set_brand(entry: KvmCpuidEntry2, brand: str) -> None:
    raw = brand.encode("ascii").ljust(48, b"\0")
    at = (entry.function - 0x80000002) * 16
    entry.eax, entry.ebx, entry.ecx, entry.edx = struct.unpack_from("<4I", raw, at)


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
