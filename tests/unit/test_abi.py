"""kvm_core.abi against the system's <linux/kvm.h>: sizes, offsets, request numbers, constants."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

from kvm_core import abi

HEADERLESS = {"KvmIrqRoute"}  # an anonymous union of the header
CONSTANTS = {
    "KVMIO": abi.KVMIO,
    "KVM_API_VERSION": abi.API_VERSION,
    "KVM_EXIT_IO_IN": abi.EXIT_IO_IN,
    "KVM_EXIT_IO_OUT": abi.EXIT_IO_OUT,
    "KVM_SYSTEM_EVENT_SHUTDOWN": abi.SYSTEM_EVENT_SHUTDOWN,
    "KVM_SYSTEM_EVENT_RESET": abi.SYSTEM_EVENT_RESET,
    "KVM_SYSTEM_EVENT_CRASH": abi.SYSTEM_EVENT_CRASH,
    "KVM_MEM_LOG_DIRTY_PAGES": abi.MEM_LOG_DIRTY_PAGES,
    "KVM_MEM_READONLY": abi.MEM_READONLY,
    "KVM_MP_STATE_RUNNABLE": abi.MP_STATE_RUNNABLE,
    "KVM_MP_STATE_UNINITIALIZED": abi.MP_STATE_UNINITIALIZED,
    "KVM_MP_STATE_INIT_RECEIVED": abi.MP_STATE_INIT_RECEIVED,
    "KVM_MP_STATE_HALTED": abi.MP_STATE_HALTED,
    "KVM_MP_STATE_SIPI_RECEIVED": abi.MP_STATE_SIPI_RECEIVED,
    "KVM_IRQCHIP_PIC_MASTER": abi.IRQCHIP_PIC_MASTER,
    "KVM_IRQCHIP_PIC_SLAVE": abi.IRQCHIP_PIC_SLAVE,
    "KVM_IRQCHIP_IOAPIC": abi.IRQCHIP_IOAPIC,
    "KVM_IOEVENTFD_FLAG_DATAMATCH": abi.IOEVENTFD_FLAG_DATAMATCH,
    "KVM_IOEVENTFD_FLAG_PIO": abi.IOEVENTFD_FLAG_PIO,
    "KVM_IOEVENTFD_FLAG_DEASSIGN": abi.IOEVENTFD_FLAG_DEASSIGN,
    "KVM_IRQFD_FLAG_DEASSIGN": abi.IRQFD_FLAG_DEASSIGN,
    "KVM_IRQFD_FLAG_RESAMPLE": abi.IRQFD_FLAG_RESAMPLE,
    "KVM_IRQ_ROUTING_IRQCHIP": abi.IRQ_ROUTING_IRQCHIP,
    "KVM_IRQ_ROUTING_MSI": abi.IRQ_ROUTING_MSI,
    "KVM_CPUID_FLAG_SIGNIFCANT_INDEX": abi.CPUID_FLAG_SIGNIFCANT_INDEX,
    "KVM_PIT_SPEAKER_DUMMY": abi.PIT_SPEAKER_DUMMY,
    "KVM_COALESCED_MMIO_PAGE_OFFSET": abi.COALESCED_MMIO_PAGE_OFFSET,
    "KVM_GUESTDBG_ENABLE": abi.GUESTDBG_ENABLE,
    "KVM_GUESTDBG_SINGLESTEP": abi.GUESTDBG_SINGLESTEP,
    "KVM_GUESTDBG_USE_SW_BP": abi.GUESTDBG_USE_SW_BP,
    "KVM_GUESTDBG_USE_HW_BP": abi.GUESTDBG_USE_HW_BP,
    "KVM_STATS_TYPE_MASK": abi.STATS_TYPE_MASK,
    "KVM_STATS_TYPE_LINEAR_HIST": abi.STATS_TYPE_LINEAR_HIST,
}


def c_name(python_name: str) -> str:
    """KvmIrqRoutingMsi -> kvm_irq_routing_msi."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", python_name).lower()


def structures() -> list[tuple[str, type[ctypes.Structure]]]:
    return [
        (name, value)
        for name, value in vars(abi).items()
        if name.startswith("Kvm") and name not in HEADERLESS
    ]


def expected() -> dict[str, int]:
    """C expression -> the value that abi.py has for it."""
    table = dict(CONSTANTS)
    for name, structure in structures():
        struct = f"struct {c_name(name)}"
        table[f"sizeof({struct})"] = ctypes.sizeof(structure)
        for field, *_ in structure._fields_:
            if name == "KvmRun" and field == "exit":
                continue
            member = getattr(structure, field)
            table[f"offsetof({struct}, {field})"] = member.offset
            table[f"sizeof((({struct} *)0)->{field})"] = member.size
    base = abi.KvmRun.exit.offset
    for variant, kind in abi._RunExit._fields_:
        if variant == "padding":
            continue
        for field, *_ in kind._fields_:
            if variant == "hypercall" and field == "pad":
                continue  # Linux 6.5 and later: the upper half of flags, which begin with longmode
            # the header names debug's fields one level deeper
            path = f"debug.arch.{field}" if variant == "debug" else f"{variant}.{field}"
            member = getattr(kind, field)
            table[f"offsetof(struct kvm_run, {path})"] = base + member.offset
            table[f"sizeof(((struct kvm_run *)0)->{path})"] = member.size
    for group in ("exception", "interrupt", "nmi", "smi", "triple_fault"):
        member = getattr(abi.KvmVcpuEvents, group)
        for field, *_ in dict(abi.KvmVcpuEvents._fields_)[group]._fields_:
            inner = getattr(dict(abi.KvmVcpuEvents._fields_)[group], field)
            table[f"offsetof(struct kvm_vcpu_events, {group}.{field})"] = (
                member.offset + inner.offset
            )
    table |= {name: value for name, value in vars(abi).items() if name.startswith("KVM_")}
    table |= {f"KVM_CAP_{cap.name}": cap.value for cap in abi.Cap}
    table |= {f"KVM_EXIT_{reason.name}": reason.value for reason in abi.Exit}
    return table


def test_layouts_and_numbers_are_the_headers(tmp_path: Path) -> None:
    table = expected()
    lines = "\n".join(f'printf("%llu\\n", (unsigned long long)({name}));' for name in table)
    source = tmp_path / "abi.c"
    source.write_text(
        "#include <stdio.h>\n#include <stddef.h>\n#include <linux/kvm.h>\n"
        f"int main(void) {{\n{lines}\nreturn 0; }}\n"
    )
    subprocess.run(["gcc", "-o", tmp_path / "abi", source], check=True)
    output = subprocess.run([tmp_path / "abi"], check=True, capture_output=True, text=True).stdout
    header = dict(zip(table, map(int, output.split()), strict=True))
    assert len(table) > 500
    assert {name: header[name] for name in table if header[name] != table[name]} == {}
