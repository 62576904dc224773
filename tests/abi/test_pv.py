"""KVM's paravirtual services as a guest uses them: clock, stolen time, PV EOI, PV IPI.

Layouts and numbers: Linux's Documentation/virt/kvm/x86/{msr,cpuid,hypercalls}.rst.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvm_core import exits
from kvm_core.abi import KVM_SET_VAPIC_ADDR, Exit, KvmVapicAddr
from tests.abi.guest import Guest, heard

PAGE = 0xE000
WRMSR = "mov ecx, {0}; mov eax, {1}; xor edx, edx; wrmsr\n"
APIC_ON = "mov ebx, 0xfee00000; mov dword ptr [rbx + 0xf0], 0x1ff\n"


def test_kvm_leaves() -> None:
    """The signature, and features. That of a nested machine (10) is not among them."""
    with Guest("done") as guest:
        leaves = {e.function: e for e in guest.vcpu.get_cpuid2()}
    signature = leaves[0x40000000]
    words = struct.pack("<III", signature.ebx, signature.ecx, signature.edx)
    assert words == b"KVMKVMKVM\0\0\0"
    features = leaves[0x40000001].eax
    for bit in (0, 3, 4, 5, 6, 7, 11, 14, 24):
        assert features >> bit & 1, bit
    assert not features >> 10 & 1


def test_clock_page() -> None:
    """The page gives the time that KVM_GET_CLOCK gives, by the guest's own TSC."""
    source = (
        WRMSR.format(0x4B564D01, PAGE | 1) + "rdtsc\n mov [0xe100], eax\n mov [0xe104], edx\n done"
    )
    with Guest(source) as guest:
        before = guest.vm.get_clock().clock
        assert isinstance(guest.run(), exits.Hlt)
        after = guest.vm.get_clock().clock
        version, _, stamp, system, scale, shift, flags = struct.unpack_from(
            "<IIQQIbB", guest.ram, PAGE
        )
        (tsc,) = struct.unpack_from("<Q", guest.ram, 0xE100)
        assert version
        assert version % 2 == 0
        assert flags & 1  # stable
        ticks = tsc - stamp
        ticks = ticks << shift if shift >= 0 else ticks >> -shift
        assert before <= system + (ticks * scale >> 32) <= after


def test_wall_clock() -> None:
    """UTC at the guest's time 0: with the clock it is now."""
    with Guest(WRMSR.format(0x4B564D00, PAGE) + "done") as guest:
        assert isinstance(guest.run(), exits.Hlt)
        version, seconds, nanoseconds = struct.unpack_from("<III", guest.ram, PAGE)
        assert version % 2 == 0
        boot = seconds + nanoseconds / 1e9
        before = time.time()
        now = boot + guest.vm.get_clock().clock / 1e9
        assert before - 0.01 < now < time.time() + 0.01


def test_steal_time() -> None:
    """The record is there at once; reserved bits of the MSR are refused."""
    source = "handle 13, on_gp\n" + WRMSR.format(0x4B564D03, PAGE | 1) + "say [0xe008]\n"
    source += WRMSR.format(0x4B564D03, PAGE | 3) + "done\non_gp: say 13\n done"
    said = heard(source)
    assert len(said) == 2
    assert said[0] % 2 == 0
    assert said[1] == 13


def _waited_ns() -> int:
    """How long this thread was runnable and did not run."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1])


def test_stolen_time_is_there_at_the_next_entry() -> None:
    """Another program on the only processor takes time between two calls of KVM_RUN."""
    source = WRMSR.format(0x4B564D03, PAGE | 1) + f"out 0x99, al\n say [{PAGE}]\n done"
    processors = os.sched_getaffinity(0)
    with Guest(source) as guest:
        os.sched_setaffinity(0, {min(processors)})
        thief = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            assert isinstance(guest.run(), exits.IoExit)
            before = _waited_ns()
            while (stolen := _waited_ns() - before) < 1_000_000:
                os.sched_yield()
            assert isinstance(guest.run(), exits.Hlt)
        finally:
            thief.kill()
            thief.wait()
            os.sched_setaffinity(0, processors)
        assert guest.said[0] >= stolen


def test_pv_eoi() -> None:
    """Clearing the offered bit ends the interrupt: the next of the same vector comes."""
    source = (
        APIC_ON
        + WRMSR.format(0x4B564D04, PAGE | 1)
        + """
        mov dword ptr [0xe000], 0
        handle 0x60, on_irq
        sti
        mov esi, 3
    1:  mov dword ptr [rbx + 0x300], 0x40060        # to itself
        nop
        dec esi
        jnz 1b
        jmp 3f
    3:
        mov eax, [rbx + 0x130]                      # nothing is in service
        say eax
        done
    on_irq:
        mov ebx, 0xfee00000
        mov ecx, 99
        lock btr dword ptr [0xe000], 0
        jc 2f
        mov ecx, 1
        mov dword ptr [rbx + 0xb0], 0
    2:  say ecx
        ret
    """
    )
    assert heard(source, irqchip=True) == [99, 99, 99, 0]


def test_pv_eoi_lets_a_lower_vector_in() -> None:
    """It was raised behind the end, and waits for nothing that only an exit would bring."""
    source = APIC_ON + WRMSR.format(0x4B564D04, PAGE | 1)
    source += """
        mov dword ptr [0xe000], 0
        mov dword ptr [0xe100], 0
        handle 0x60, on_irq
        handle 0x30, on_lower
        sti
        mov dword ptr [rbx + 0x300], 0x40060        # to itself
        mov esi, 100000000
    1:  cmp dword ptr [0xe100], 0
        jne 2f
        dec esi
        jnz 1b
    2:  mov eax, [0xe100]
        say eax
        done
    on_irq:
        mov ebx, 0xfee00000
        mov ecx, 99                                 # it was offered
        lock btr dword ptr [0xe000], 0
        jc 3f
        mov ecx, 1
        mov dword ptr [rbx + 0xb0], 0
    3:  mov [0xe104], ecx
        mov dword ptr [rbx + 0x300], 0x40030
        ret
    on_lower:
        mov ecx, [0xe104]
        mov [0xe100], ecx
        mov dword ptr [rbx + 0xb0], 0
        ret
    """
    assert heard(source, irqchip=True) == [99]


@pytest.mark.parametrize("ended", [False, True])
def test_pv_eoi_is_settled_at_an_exit(ended: bool) -> None:
    """A client that saves its machine finds the vector in service, or ended, in the LAPIC alone.

    Migrated with the offer standing, a guest took it up where nobody knew of it: no timer any more.
    """
    end = "lock btr dword ptr [0xe000], 0" if ended else "nop"
    source = APIC_ON + WRMSR.format(0x4B564D04, PAGE | 1)
    source += f"""
        mov dword ptr [0xe000], 0
        handle 0x60, on_irq
        sti
        mov dword ptr [rbx + 0x300], 0x40060        # to itself
        nop
        done
    on_irq:
        mov ecx, [0xe000]
        {end}
        out 0x99, al
        say ecx
        done
    """
    with Guest(source, irqchip=True) as guest:
        stop = guest.run()
        assert isinstance(stop, exits.IoExit)
        assert stop.port == 0x99
        in_service = bytes(guest.vcpu.get_lapic().regs[0x130:0x134])  # vectors 60h to 7Fh
        assert in_service == bytes([not ended, 0, 0, 0])
        assert guest.ram[PAGE] == 0
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [1]  # it had been offered


def test_pv_ipi() -> None:
    """KVM_HC_SEND_IPI: a bit map of APIC ids from a base; the answer counts who got it."""
    source = (
        APIC_ON
        + """
        handle 0x70, on_irq
        mov eax, 10
        mov ebx, 1
        xor ecx, ecx
        xor edx, edx
        mov esi, 0x70
        vmcall
        say eax
        mov eax, 10
        mov ebx, 2                                  # nobody
        vmcall
        say eax
        sti
        nop
        done
    on_irq: say 0x70; ret
    """
    )
    assert heard(source, irqchip=True) == [1, 0, 0x70]


BOTH_HYPERCALLS = """
    handle 6, on_ud
    mov eax, 999
first: vmcall
    say eax
    mov eax, 999
second: vmmcall
    say eax
    mov eax, [rip + first]
    and eax, 0xffffff
    say eax
    mov eax, [rip + second]
    and eax, 0xffffff
    say eax
    done
on_ud:
    add qword ptr [rsi + 16], 3
    ret
"""
UNKNOWN, VMCALL, VMMCALL = 0xFFFFFC18, 0xC1010F, 0xD9010F


def test_the_other_vendors_hypercall() -> None:
    """It becomes this processor's, and is executed: -KVM_ENOSYS."""
    *answers, first, second = heard(BOTH_HYPERCALLS)
    assert answers == [UNKNOWN, UNKNOWN]
    assert first == second
    assert first in (VMCALL, VMMCALL)


def test_the_other_vendors_hypercall_is_none() -> None:
    """KVM_X86_QUIRK_FIX_HYPERCALL_INSN off: #UD, and nothing is written."""
    with Guest(BOTH_HYPERCALLS) as guest:
        guest.vm.enable_cap(213, 1 << 5)
        assert isinstance(guest.run(), exits.Hlt)
    *answers, first, second = guest.said
    assert sorted(answers) == [999, UNKNOWN]
    assert (first, second) == (VMCALL, VMMCALL)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(PAGE | 9, True), (PAGE | 0x11, False), (0, True), (1 << 30 | 9, False), (1 << 30, True)],
)
def test_async_page_faults_can_be_turned_on(value: int, accepted: bool) -> None:
    """The default models of QEMU have them, and a guest that has turned them on waits for none."""
    said = heard(
        "handle 13, on_gp\n"
        + WRMSR.format(0x4B564D06, 0xF3)
        + WRMSR.format(0x4B564D02, value)
        + "mov ecx, 0x4b564d02; rdmsr\n say eax\n mov ecx, 0x4b564d06; rdmsr\n say eax\n"
        + WRMSR.format(0x4B564D07, 1)
        + "done\non_gp: say 13\n done"
    )
    assert said == ([value, 0xF3] if accepted else [13])


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(PAGE | 1, True), (PAGE | 3, False), (1 << 30 | 1, False), (1 << 30, True)],
)
def test_pv_eoi_is_where_memory_is(value: int, accepted: bool) -> None:
    """What is refused leaves the register as it was."""
    said = heard(
        "handle 13, on_gp\n"
        + WRMSR.format(0x4B564D04, value)
        + "read: mov ecx, 0x4b564d04; rdmsr\n say eax\n done\non_gp: say 13\n jmp read"
    )
    assert said == ([value] if accepted else [13, 0])


def test_async_page_faults_have_a_vector() -> None:
    said = heard(
        "handle 13, on_gp\n" + WRMSR.format(0x4B564D06, 0x100) + "done\non_gp: say 13\n done"
    )
    assert said == [13]


@pytest.mark.parametrize("enforced", [False, True])
def test_services_that_cpuid_does_not_name(enforced: bool) -> None:
    """KVM_CAP_ENFORCE_PV_FEATURE_CPUID: registers fault and hypercalls are unknown."""
    steps = "".join(
        f"mov eax, {n}; xor ebx, ebx; xor ecx, ecx; vmcall\n say eax\n" for n in (5, 11)
    )
    source = (
        f"handle 13, on_gp\n{steps}{WRMSR.format(0x4B564D05, 1)}say 1\n done\non_gp: say 13\n done"
    )
    with Guest(source, irqchip=True) as guest:
        cpuid = guest.kvm.get_supported_cpuid()
        guest.vcpu.set_cpuid2([e for e in cpuid if e.function != 0x40000001])
        if enforced:
            guest.vcpu.enable_cap(190, 1)
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == ([0xFFFFFC18, 0xFFFFFC18, 13] if enforced else [0, 0, 1])


def test_kicks_of_who_is_never_scheduled_out() -> None:
    """KVM_X86_DISABLE_EXITS_HLT takes PV_UNHALT from CPUID."""
    with Guest("done") as guest:
        guest.vm.enable_cap(143, 2)
        guest.vcpu.set_cpuid2(guest.kvm.get_supported_cpuid())
        assert not {e.function: e for e in guest.vcpu.get_cpuid2()}[0x40000001].eax >> 7 & 1


@pytest.mark.parametrize(
    ("base", "name", "there"), [(0x40000100, 0x4B4D564B, False), (0x40000000, 0x4B4D5658, True)]
)
def test_kvms_leaves_have_its_name(base: int, name: int, there: bool) -> None:
    """Behind Hyper-V's, features are KVM's too; without KVM's signature they are not."""
    with Guest("done") as guest:
        guest.vm.enable_cap(143, 2)
        leaves = guest.kvm.get_supported_cpuid()
        for e in leaves:
            if e.function in (0x40000000, 0x40000001):
                e.function += base - 0x40000000
            if e.function == base:
                e.ebx = name
        guest.vcpu.set_cpuid2(leaves)
        set_ones = {e.function: e for e in guest.vcpu.get_cpuid2()}
        assert bool(set_ones[base + 1].eax >> 7 & 1) == there


def test_hypercall_exit() -> None:
    """KVM_CAP_EXIT_HYPERCALL: MAP_GPA_RANGE is the client's; its answer is RAX."""
    source = "mov eax, 12; mov ebx, 0x4000; mov ecx, 2; mov edx, 0x10; vmcall\n say eax\n done"
    with Guest(source) as guest:
        guest.vm.enable_cap(201, 1 << 12)
        end = guest.run()
        assert end == exits.Hypercall(12, (0x4000, 2, 0x10, 0, 0, 0), True), end
        guest.vcpu.shared.hypercall.ret = 7
        assert guest.vcpu.shared.exit_reason == Exit.HYPERCALL
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [7]


def test_virtual_apic_word() -> None:
    """KVM_SET_VAPIC_ADDR: TPR is in the word at an entry and taken back from it at an exit."""
    source = APIC_ON + (
        f"mov dword ptr [rbx + 0x80], 0x50; say 1; say [{PAGE}]\n"
        f"mov byte ptr [{PAGE}], 0x20; mov eax, 1; vmcall; say [rbx + 0x80]; done"
    )
    with Guest(source, irqchip=True) as guest:
        guest.vcpu.ioctl(KVM_SET_VAPIC_ADDR, KvmVapicAddr(PAGE))
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [1, 0x50, 0x20]


def test_virtual_apic_word_without_memory() -> None:
    """An address where there is no memory is refused."""
    with Guest("done", irqchip=True) as guest, pytest.raises(OSError, match="Invalid argument"):
        guest.vcpu.ioctl(KVM_SET_VAPIC_ADDR, KvmVapicAddr(1 << 40))
