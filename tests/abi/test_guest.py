"""Reproducers of what larger suites found: traps, NMIs, operands in devices.

Each guest says numbers; the expected ones follow from the manual named.
"""

from __future__ import annotations

import pytest

from kvm_core import exits
from kvm_core.abi import KvmCpuidEntry2
from tests.abi.guest import Guest, heard

LOW = 0xFEE00000

DB = """
    handle 1, on_db
    jmp begin
on_db:
    mov rax, dr6
    say eax
    mov eax, [rsi + 16]
    sub eax, offset origin
    say eax
    xor eax, eax
    mov dr6, rax
    and dword ptr [rsi + 32], ~0x100
    ret
begin:
"""
SET_TF = "pushfq; or dword ptr [rsp], 0x100; popfq\n"
DR6 = 0xFFFF0FF0
STEP = DR6 | 1 << 14


def test_single_step_of_hlt_wakes_it() -> None:
    """The trap comes right behind HLT; nothing else would wake it. SDM vol. 2, HLT"""
    said = heard(DB + SET_TF + "origin: hlt\n mov eax, 7\n say eax\n done", irqchip=True)
    assert said == [STEP, 1, 7]


def test_sysret_traps_by_the_tf_it_loads() -> None:
    """APM vol. 2, 13.1.4: SYSCALL and SYSRET are judged by the TF that they leave."""
    program = """
        mov ecx, 0xc0000081             # STAR: 0x08 for SYSCALL, 0x18 (32-bit) and 0x28 for SYSRET
        xor eax, eax
        mov edx, 0x00180008
        wrmsr
        lea rcx, [rip + origin]
        mov r11d, 0x102
        sysretq
    origin:
        nop
        in al, 0x60                     # CPL 3 may not: the end
    """
    with Guest(DB + program) as guest:
        end = guest.run()
        assert guest.said == [STEP, 0]
        assert (end.vector, end.error) == (13, 0)  # type: ignore[union-attr]


def test_int_n_does_not_trap() -> None:
    """INT n clears TF: no trap at the handler's first instruction, one after the return."""
    program = (
        "handle 0x40, on_40\n" + SET_TF + "origin: int 0x40; nop; nop\n done\non_40: say 5; ret"
    )
    assert heard(DB + program) == [5, STEP, 3]


def _watch(kind: int) -> str:
    return f"""
        lea rax, [rip + slot]
        mov dr0, rax
        mov eax, {0x401 | kind << 16 | 3 << 18}
        mov dr7, rax
        jmp origin
    .balign 8
    slot: .quad 0x10
    origin:
    """


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ("nop", [DR6 | 1, 7]),  # held for one instruction: SDM vol. 3, 6.8.3
        ("int1", [DR6 | 1, 7]),  # one #DB for both
        (
            "int 0x41",
            [DR6 | 1, None, 6],
        ),  # first the transfer, then the trap, in front of the handler
    ],
)
def test_breakpoint_of_mov_ss(behind: str, expected: list[int | None]) -> None:
    program = _watch(3) + f"mov ss, [rip + slot]\n {behind}\n nop\n done\non_41: say 6; ret"
    said = heard(DB + "handle 0x41, on_41\n" + program)
    assert len(said) == len(expected)
    assert all(want is None or got == want for got, want in zip(said, expected, strict=True)), said


NMI = f"""
    mov ebx, {LOW}
    mov dword ptr [rbx + 0xf0], 0x1ff   # enabled
    handle 2, on_nmi
    jmp begin
send_nmi:                               # to itself, physically
    mov dword ptr [rbx + 0x310], 0
    mov dword ptr [rbx + 0x300], 0x4400
    ret
"""


def test_nmis_that_wait() -> None:
    """One waits while one is served, however many came; it is taken right behind IRET."""
    program = """
    on_nmi:
        inc dword ptr [rip + count]
        say [rip + count]
        cmp dword ptr [rip + count], 1
        jne 1f
        call send_nmi
        call send_nmi
        call send_nmi
        say 100
    1:  ret
    count: .long 0
    begin:
        call send_nmi
        say 101
        done
    """
    assert heard(NMI + program, irqchip=True) == [1, 100, 2, 101]


class Device:
    """Client memory behind MMIO exits; a port that counts up."""

    def __init__(self) -> None:
        self.memory = bytearray(0x2000)
        self.port = 0

    def serve(self, guest: Guest) -> None:
        while not isinstance(end := guest.run(), exits.Hlt):
            if isinstance(end, exits.MmioExit):
                at = end.gpa - 0xFEC00000
                if end.is_write:
                    self.memory[at : at + end.size] = end.data
                else:
                    end.data[:] = self.memory[at : at + end.size]
            elif isinstance(end, exits.IoExit) and not end.is_write:
                for at in range(0, len(end.data), end.size):
                    end.data[at] = self.port & 0xFF
                    self.port += 1
            else:
                raise AssertionError(end)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ins_into_a_device(size: int) -> None:
    """Each element is read from the port once, however often the store to the device exits."""
    suffix = {1: "b", 2: "w", 4: "d"}[size]
    source = (
        f"cld; mov edx, 0x60; mov edi, 0xfec00ffe; mov ecx, 300; rep ins{suffix}\n say ecx\n done"
    )
    device = Device()
    with Guest(source) as guest:
        device.serve(guest)
        assert guest.said == [0]
    assert device.port == 300
    wanted = b"".join(bytes([n & 0xFF]).ljust(size, b"\0") for n in range(300))
    assert device.memory[0xFFE : 0xFFE + 300 * size] == wanted


def test_outs_from_a_device() -> None:
    """More elements than the access log has room for."""
    source = "cld; mov edx, 0x70; mov esi, 0xfec00ff0; mov ecx, 100; rep outsd\n done"
    device = Device()
    device.memory[:] = bytes(n % 251 for n in range(0x2000))
    with Guest(source) as guest:
        device.serve(guest)
        words = [
            int.from_bytes(device.memory[at : at + 4], "little")
            for at in range(0xFF0, 0xFF0 + 400, 4)
        ]
        assert guest.said == words


def test_far_pointer_in_a_device() -> None:
    """m16:64 as KVM emulates it, for every vendor."""
    device = Device()
    with Guest("mov eax, 0xfec00000; .byte 0x48, 0xff, 0x28\n hlt\ntarget: say 9\n done") as guest:
        device.memory[0:10] = guest.labels["target"].to_bytes(8, "little") + b"\x08\0"
        device.serve(guest)
        assert guest.said == [9]


def test_supervisor_protection_keys() -> None:
    """CR4.PKS, IA32_PKRS: the key of a supervisor page. SDM vol. 3, 4.6.2"""
    program = """
        handle 14, on_pf
        mov rax, 0x1000000000000083     # key 2, no user page
        mov [0x3008], rax               # linear 2 MiB to 4 MiB: physical 0
        mov rax, cr4
        or eax, 1 << 24
        mov cr4, rax
        mov ebx, 0x200000 + 0xe000
        mov esi, 0x10; call set         # no access
        mov eax, [rbx]
        mov esi, 0x20; call set         # no writing
        mov eax, [rbx]
        say 1
        mov [rbx], eax
        mov rax, cr0                    # without WP the kernel may
        and eax, ~0x10000
        mov cr0, rax
        mov esi, 0x20; call set
        mov [rbx], eax
        say 2
        done
    set:
        mov ecx, 0x6e1
        mov eax, esi
        xor edx, edx
        wrmsr
        ret
    on_pf:
        say [rsi + 8]
        xor esi, esi
        jmp set
    """
    assert heard(program) == [0x21, 1, 0x23, 2]


def test_segment_base_wider_than_the_paging_mode() -> None:
    """LLDT checks by the processor's widest linear address, whatever CR4.LA57."""
    program = """
        mov rax, 0x0000820000000fff
        mov [0x5038], rax               # over the end of the TSS descriptor's reserved half
        mov dword ptr [0x5040], {high}
        mov dword ptr [0x5044], 0
        mov word ptr [0x4ff0], 0x4f
        mov qword ptr [0x4ff2], 0x5000
        lgdt [0x4ff0]
        mov eax, 0x38
        lldt ax
        say 1
        done
    """
    assert heard(program.replace("{high}", "0x00008000")) == [1]
    with Guest(program.replace("{high}", "0x01000000")) as guest:
        end = guest.run()
        assert (end.vector, end.error) == (13, 0x38)  # type: ignore[union-attr]


def test_cpuid_offers_what_these_tests_use() -> None:
    with Guest("done") as guest:
        leaf7 = [e for e in guest.vcpu.get_cpuid2() if (e.function, e.index) == (7, 0)]
        assert isinstance(leaf7[0], KvmCpuidEntry2)
        assert leaf7[0].ecx >> 16 & 1  # LA57
        assert leaf7[0].ecx >> 31 & 1  # PKS


def test_cpuid_is_fixed_once_the_guest_has_run() -> None:
    """Then only what it is, with its running bits or without, is taken, as by KVM."""
    with Guest("say 1; done") as guest:
        entries = guest.kvm.get_supported_cpuid()
        leaf7 = next(e for e in entries if e.function == 7 and not e.index)
        leaf7.ebx ^= 1 << 3
        guest.vcpu.set_cpuid2(entries)
        assert isinstance(guest.run(), exits.Hlt)
        guest.vcpu.set_cpuid2(entries)
        guest.vcpu.set_cpuid2(guest.vcpu.get_cpuid2())
        leaf7.ebx ^= 1 << 3
        with pytest.raises(OSError, match="Invalid argument"):
            guest.vcpu.set_cpuid2(entries)
        with pytest.raises(OSError, match="Invalid argument"):
            guest.vcpu.set_cpuid2(guest.vcpu.get_cpuid2()[1:])


def test_deadline_register_without_its_feature() -> None:
    """IA32_TSC_DEADLINE is there whatever CPUID says, as in KVM."""
    source = "mov ecx, 0x6e0; xor eax, eax; xor edx, edx; wrmsr; rdmsr; say eax; done"
    with Guest(source, irqchip=True) as guest:
        entries = guest.kvm.get_supported_cpuid()
        for entry in entries:
            if entry.function == 1:
                entry.ecx &= ~(1 << 24)
        guest.vcpu.set_cpuid2(entries)
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [0]


@pytest.mark.parametrize("shown", [True, False])
def test_platform_info(shown: bool) -> None:
    """KVM_CAP_MSR_PLATFORM_INFO: off, the guest's read of it is a #GP."""
    source = "handle 13, on_gp\n mov ecx, 0xce; rdmsr; say eax; done\non_gp: say 13; done"
    with Guest(source) as guest:
        guest.vm.enable_cap(159, shown)
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [1 << 31 if shown else 13]


def test_slots_that_share_memory() -> None:
    """Code written through one is executed through another, in any order, while a third goes."""
    low, mid, high = 0x120000, 0x140000, 0x160000
    once = f"""
        call rax; say ebx; inc dword ptr [{high} + 1]; call rax; say ebx
        mov ecx, [{mid} + 1]; say ecx; done
    """
    with Guest(f"mov eax, {low}\n" + 2 * once) as guest:
        shared = guest.host + 0xC000
        guest.ram[0xC000:0xC006] = b"\xbb\x05\x00\x00\x00\xc3"  # mov ebx, 5; ret
        for slot, gpa in enumerate((high, low, mid), start=1):
            guest.vm.set_user_memory_region(slot, gpa, 0x1000, shared)
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [5, 6, 6]
        guest.vm.set_user_memory_region(3, mid, 0, shared)
        guest.vm.set_user_memory_region(3, mid, 0x1000, guest.host + 0xD000)
        assert isinstance(guest.run(), exits.Hlt)  # of the HLT in `done`
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.said == [5, 6, 6, 6, 7, 0]
