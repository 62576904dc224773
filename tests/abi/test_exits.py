"""What guests do, as the client sees it: exits, eventfds, rings, logs (KVM API 4 and 5)."""

from __future__ import annotations

import ctypes
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvm_core import abi, exits
from kvm_core.api import Kvm, Vcpu
from kvm_core.door import DirectDoor
from tests.abi.guest import RAM_BYTES, Guest

ON_MSR_EXITS, CAP_USER_MSR = 7, 188  # INVAL | UNKNOWN | FILTER
SET_MSR_FILTER = 1 << 30 | (8 + 16 * 24) << 16 | 0xAEC6
MMIO = 0xFEC00000  # mapped by the guest, no memory behind it


def until(guest: Guest, kind: type) -> exits.VcpuExit:
    end = guest.run()
    assert isinstance(end, kind), (end, guest.said)
    return end  # type: ignore[no-any-return]


# ---- debugging: KVM API 4.87 ----------------


def test_software_breakpoint() -> None:
    """INT3 goes to the client, with RIP at it; without USE_SW_BP the guest gets it."""
    with Guest("handle 3, on_bp\n nop\nhere: int3\n say 2\n done\non_bp: say 1; ret") as guest:
        vcpu, here = guest.vcpu, guest.labels["here"]
        vcpu.set_guest_debug(abi.GUESTDBG_ENABLE | abi.GUESTDBG_USE_SW_BP)
        at = until(guest, exits.Debug)
        assert isinstance(at, exits.Debug)
        assert (at.exception, at.pc) == (3, here)
        assert vcpu.get_regs().rip == here
        vcpu.set_guest_debug(0)
        until(guest, exits.Hlt)
        assert guest.said == [1, 2]


def test_code_that_the_client_rewrites() -> None:
    """KVM_RUN executes what is there now, where the vCPU stands and in a page that it goes to."""

    def said(vcpu: Vcpu) -> int:
        end = vcpu.run()
        assert isinstance(end, exits.IoExit)
        return bytes(end.data)[0]

    source = "here: mov al, 1\n out 0x10, al\n jmp there\n"
    source += ".balign 4096\n there: mov al, 2\n out 0x10, al\n jmp here"
    with Guest(source) as guest:
        vcpu, here, there = guest.vcpu, guest.labels["here"] + 1, guest.labels["there"] + 1
        for n in range(200):  # from the first time on, and when it is translated
            guest.ram[here], guest.ram[there] = n, 255 - n
            assert (said(vcpu), said(vcpu)) == (n, 255 - n)
        guest.ram[there] = 7
        assert (said(vcpu), said(vcpu)) == (199, 7)
        guest.ram[here] = 8
        assert (said(vcpu), said(vcpu)) == (8, 7)


def test_an_instruction_that_waits_for_its_answer_is_the_one_that_asked() -> None:
    """Although the client has written another one there before it answers."""
    source = "mov rbx, 0x180000\n jmp here\n here: mov eax, [rbx]\n say eax\n jmp here"
    with Guest(source) as guest:
        vcpu, here = guest.vcpu, guest.labels["here"]
        for n in range(100):
            end = vcpu.run()
            assert isinstance(end, exits.MmioExit)
            end.data[:] = n.to_bytes(4, "little")
            guest.ram[here : here + 2] = b"\x8b\x0b"  # mov ecx, [rbx]
            end = vcpu.run()
            assert isinstance(end, exits.IoExit)
            assert int.from_bytes(bytes(end.data), "little") == n
            guest.ram[here : here + 2] = b"\x8b\x03"


def test_hardware_breakpoints() -> None:
    """On code before the instruction, on data after it; DR6 tells which."""
    source = "nop\nhere: mov [0xe000], eax\nbehind: nop\n done"
    with Guest(source) as guest:
        here, behind = guest.labels["here"], guest.labels["behind"]
        code, data = 1 << 0, 1 << 2 | 0b1101 << 20
        guest.vcpu.set_guest_debug(
            abi.GUESTDBG_ENABLE | abi.GUESTDBG_USE_HW_BP,
            [here, 0xE000, 0, 0, 0, 0, 0, 0x400 | code | data],
        )
        at = until(guest, exits.Debug)
        assert isinstance(at, exits.Debug)
        assert (at.exception, at.pc, at.dr6 & 0xF) == (1, here, 1)
        regs = guest.vcpu.get_regs()
        regs.rflags |= 1 << 16  # RF: on we go
        guest.vcpu.set_regs(regs)
        at = until(guest, exits.Debug)
        assert isinstance(at, exits.Debug)
        assert (at.exception, at.pc, at.dr6 & 0xF) == (1, behind, 2)
        until(guest, exits.Hlt)


def test_general_detect() -> None:
    """DR7.GD of the client: the guest's access to a debug register is an exit before it."""
    with Guest("here: mov rax, dr0\n done") as guest:
        guest.vcpu.set_guest_debug(
            abi.GUESTDBG_ENABLE | abi.GUESTDBG_USE_HW_BP, [0, 0, 0, 0, 0, 0, 0, 0x400 | 1 << 13]
        )
        at = until(guest, exits.Debug)
        assert isinstance(at, exits.Debug)
        assert (at.exception, at.pc, at.dr6) == (1, guest.labels["here"], 0xFFFF2FF0)


def test_single_steps() -> None:
    """One exit an instruction, also over port I/O; EFLAGS.TF stays the guest's own."""
    source = "one: nop\ntwo: in al, 0x60\nthree: pushfq\n pop rbx\nfour: nop\nfive: done"
    with Guest(source) as guest:
        labels = guest.labels
        guest.vcpu.set_guest_debug(abi.GUESTDBG_ENABLE | abi.GUESTDBG_SINGLESTEP)
        seen = []
        for _ in range(20):
            end = guest.run()
            if isinstance(end, exits.Debug):
                assert end.dr6 >> 14 & 1
                seen.append(end.pc)
            if seen and seen[-1] == labels["five"]:
                break
        wanted = [labels[name] for name in ("two", "three", "four")]
        assert seen[-1] == labels["five"]
        assert [at for at in seen if at in wanted] == wanted
        assert not guest.vcpu.get_regs().rbx & 0x100


@pytest.mark.parametrize("irqchip", [False, True])
def test_step_over_hlt(irqchip: bool) -> None:
    """It halts: kvm_emulate_halt() of Linux. Without a LAPIC of KVM's the exit is KVM_EXIT_HLT."""
    with Guest("hlt\nbehind: nop\n done", irqchip=irqchip) as guest:
        guest.vcpu.set_guest_debug(abi.GUESTDBG_ENABLE | abi.GUESTDBG_SINGLESTEP)
        until(guest, exits.Debug)  # the jump to the program
        until(guest, exits.Debug if irqchip else exits.Hlt)
        assert guest.vcpu.get_regs().rip == guest.labels["behind"]
        assert guest.vcpu.get_mp_state() == (abi.MP_STATE_HALTED if irqchip else 0)
        guest.vcpu.set_mp_state(abi.MP_STATE_RUNNABLE)
        until(guest, exits.Debug)


# ---- MSRs: KVM API 4.97, 4.119, 7.21 ----------------


def _filter(guest: Guest, base: int, allowed: int) -> None:
    """Reads and writes of 8 MSRs from base; a set bit lets it pass."""
    bitmap = ctypes.create_string_buffer(bytes([allowed]) + bytes(7))
    entry = struct.pack("=IIIIIIQ", 0, 0, 3, 8, base, 0, ctypes.addressof(bitmap))
    guest.vm.ioctl(SET_MSR_FILTER, bytearray(entry + bytes(8 + 16 * 24 - len(entry))))


RDMSR = "mov ecx, {0}; rdmsr; say eax; say edx\n"
WRMSR = "mov ecx, {0}; mov eax, 5; mov edx, 6; wrmsr\n"


def test_unknown_msrs_exit() -> None:
    with Guest(RDMSR.format(0xDEAD) + WRMSR.format(0xDEAE) + "done") as guest:
        guest.vm.enable_cap(CAP_USER_MSR, ON_MSR_EXITS)
        assert until(guest, exits.Rdmsr) == exits.Rdmsr(0xDEAD, 2)
        guest.vcpu.shared.msr.data = 0x0000_0002_0000_0001
        assert until(guest, exits.Wrmsr) == exits.Wrmsr(0xDEAE, 6 << 32 | 5, 2)
        until(guest, exits.Hlt)
        assert guest.said == [1, 2]


@pytest.mark.parametrize("asked", [1, 2])
def test_a_value_that_an_msr_does_not_take(asked: int) -> None:
    """Reason INVAL, not UNKNOWN: #GP(0) for who asked for the other only."""
    steal_time = 0x4B564D03
    with Guest("handle 13, on_gp\n" + WRMSR.format(steal_time) + "on_gp: say 7\n done") as guest:
        guest.vm.enable_cap(CAP_USER_MSR, asked)
        if asked == 1:
            assert until(guest, exits.Wrmsr) == exits.Wrmsr(steal_time, 6 << 32 | 5, 1)
            guest.vcpu.shared.msr.error = 1
        until(guest, exits.Hlt)
        assert guest.said == [7]


def test_msr_error_is_a_fault() -> None:
    """`error` of the answer becomes #GP(0) at the instruction."""
    with Guest("handle 13, on_gp\n" + RDMSR.format(0xDEAD) + "on_gp: say 77\n done") as guest:
        guest.vm.enable_cap(CAP_USER_MSR, ON_MSR_EXITS)
        until(guest, exits.Rdmsr)
        guest.vcpu.shared.msr.error = 1
        until(guest, exits.Hlt)
        assert guest.said == [77]


def test_filtered_msrs() -> None:
    """Denied: an exit with reason FILTER, or #GP where that is not asked for. The client may."""
    source = (
        "handle 13, on_gp\n" + RDMSR.format(0x174) + RDMSR.format(0x175) + "on_gp: say 7\n done"
    )
    for reasons in (ON_MSR_EXITS, 0):
        with Guest(source) as guest:
            if reasons:
                guest.vm.enable_cap(CAP_USER_MSR, reasons)
            guest.vcpu.set_msrs({0x174: 0x10, 0x175: 0x2000})
            _filter(guest, 0x170, 0b0001_1111)  # 0x174 passes, 0x175 does not
            if reasons:
                assert until(guest, exits.Rdmsr) == exits.Rdmsr(0x175, 4)
                guest.vcpu.shared.msr.error = 1
            until(guest, exits.Hlt)
            assert guest.said == [0x10, 0, 7]
            assert guest.vcpu.get_msrs([0x175]) == {0x175: 0x2000}


# ---- eventfds, rings ----------------


def _count(fd: int) -> int:
    try:
        return int.from_bytes(os.read(fd, 8), "little")
    except BlockingIOError:
        return 0


def test_ioeventfds() -> None:
    """By address, size and data; the others still exit. Length 0 takes any size. KVM API 4.59"""
    source = f"""
        mov ebx, {MMIO}
        mov dword ptr [rbx + 0x100], 1      # matches
        mov dword ptr [rbx + 0x100], 2      # other data
        mov word ptr [rbx + 0x100], 1       # other size
        mov byte ptr [rbx + 0x200], 1       # any
        mov qword ptr [rbx + 0x200], 1
        mov al, 3
        out 0x50, al
        done
    """
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    try:
        with Guest(source) as guest:
            guest.vm.ioeventfd(fds[0], MMIO + 0x100, 4, datamatch=1)
            guest.vm.ioeventfd(fds[1], MMIO + 0x200, 0)
            guest.vm.ioeventfd(fds[2], 0x50, 1, flags=abi.IOEVENTFD_FLAG_PIO)
            for size in (4, 2):
                end = until(guest, exits.MmioExit)
                assert isinstance(end, exits.MmioExit)
                assert (end.gpa, end.size) == (MMIO + 0x100, size)
            until(guest, exits.Hlt)
            assert [_count(fd) for fd in fds] == [1, 2, 1]
    finally:
        for fd in fds:
            os.close(fd)


def test_coalesced_writes() -> None:
    """They wait in the ring, in order; a read exits, and a full ring does. KVM API 4.116"""
    source = f"""
        mov ebx, {MMIO}
        mov dword ptr [rbx + 0x100], 0x11
        mov al, 0x22
        out 0x50, al
        mov eax, [rbx + 0x100]
        mov ecx, 400
    1:  mov [rbx + 0x100], ecx
        loop 1b
        done
    """
    with Guest(source) as guest:
        guest.vm.register_coalesced(MMIO + 0x100, 4)
        guest.vm.register_coalesced(0x50, 1, pio=True)
        end = until(guest, exits.MmioExit)
        assert isinstance(end, exits.MmioExit)
        assert not end.is_write
        first = guest.vm.drain_coalesced()
        assert [(w.address, w.is_pio, w.data[0]) for w in first] == [
            (MMIO + 0x100, False, 0x11),
            (0x50, True, 0x22),
        ]
        written = b""
        while isinstance(end := guest.run(), exits.MmioExit):
            written += b"".join(w.data for w in guest.vm.drain_coalesced())
            written += bytes(end.data)
        written += b"".join(w.data for w in guest.vm.drain_coalesced())
        assert isinstance(end, exits.Hlt)
        assert struct.unpack("<400I", written) == tuple(range(400, 0, -1))


def test_a_write_that_reaches_beyond_a_coalesced_zone_exits() -> None:
    """One that begins at its last byte, and one behind it; nothing of them is in the ring."""
    source = f"""
        mov ebx, {MMIO}
        mov word ptr [rbx + 0x103], 0x11
        mov byte ptr [rbx + 0x104], 0x22
        done
    """
    with Guest(source) as guest:
        guest.vm.register_coalesced(MMIO + 0x100, 4)
        for gpa, size in (MMIO + 0x103, 2), (MMIO + 0x104, 1):
            end = guest.run()
            assert isinstance(end, exits.MmioExit)
            assert (end.gpa, end.size) == (gpa, size)
        until(guest, exits.Hlt)
        assert guest.vm.drain_coalesced() == []


def test_writes_after_a_coalesced_zone_was_unregistered() -> None:
    """They are exits again; what was in the ring stays there."""
    with Guest("mov al, 1\nout 0x50, al\nin al, 0x51\nmov al, 2\nout 0x50, al\ndone") as guest:
        guest.vm.register_coalesced(0x50, 1, pio=True)
        end = guest.run()
        assert isinstance(end, exits.IoExit)
        assert end.port == 0x51
        guest.vm.unregister_coalesced(0x50, 1, pio=True)
        end = guest.run()
        assert isinstance(end, exits.IoExit)
        assert (end.port, end.is_write, bytes(end.data)) == (0x50, True, b"\2")
        assert [w.data for w in guest.vm.drain_coalesced()] == [b"\1"]


def test_standing_answers() -> None:
    """Reads of one byte get the byte that stands, and come out when none does."""
    source = """
        in al, 0x51
        movzx ebx, al
        say ebx
        in al, 0x50
        in ax, 0x51
        in al, 0x51
        done
    """
    with Guest(source) as guest:
        answer = guest.vm.standing.at(0x51)
        answer.set(0xA5)
        ports = []
        while isinstance(end := guest.run(), exits.IoExit):
            ports.append((end.port, end.size))
            if end.size == 2:
                answer.set(None)
        assert isinstance(end, exits.Hlt)
        assert guest.said == [0xA5]
        assert ports == [(0x50, 1), (0x51, 2), (0x51, 1)]
    assert guest.vcpu.map.closed


def test_standing_answer_changes_under_a_guest_that_polls() -> None:
    """And kvmish_kick() ends a poll that never will."""
    source = "say 1\n1: in al, 0x51\ntest al, al\njz 1b\nsay 2\n2: in al, 0x51\njmp 2b"
    with Guest(source) as guest, ThreadPoolExecutor() as pool:
        answer = guest.vm.standing.at(0x51)
        answer.set(0)
        end = pool.submit(guest.run)
        while guest.said != [1]:
            assert not end.done()
        answer.set(1)
        while guest.said != [1, 2]:
            assert not end.done()
        guest.vcpu.kick()
        assert isinstance(end.result(), exits.Interrupted)


IOAPIC_LEVEL = f"""
    mov al, 0xff                            # the PICs keep quiet
    out 0x21, al
    out 0xa1, al
    mov ebx, 0xfee00000
    mov dword ptr [rbx + 0xf0], 0x1ff
    mov ebx, {MMIO}
    mov dword ptr [rbx], 0x10 + 2 * 10
    mov dword ptr [rbx + 0x10], 0x8050      # pin 10: level, vector 0x50
    mov dword ptr [rbx], 0x11 + 2 * 10
    mov dword ptr [rbx + 0x10], 0
    handle 0x50, on_irq
    sti
"""


def test_irqfd_of_one_machine() -> None:
    """An eventfd that another machine has is busy until that gives it up, or is gone."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    with Kvm(DirectDoor()) as kvm, kvm.create_vm() as one:
        one.create_irqchip()
        with kvm.create_vm() as other:
            other.create_irqchip()
            other.irqfd(event, 5)
            with pytest.raises(OSError, match="busy"):
                one.irqfd(event, 5)
            other.irqfd(event, 5, abi.IRQFD_FLAG_DEASSIGN)
            one.irqfd(event, 5)
            one.irqfd(event, 5, abi.IRQFD_FLAG_DEASSIGN)
            other.irqfd(event, 5)
        one.irqfd(event, 5)
    os.close(event)


def test_irqfd_with_resample() -> None:
    """The line stays up until the guest's EOI, which signals the resampler. KVM API 4.75"""
    source = (
        IOAPIC_LEVEL
        + """
        mov ecx, 0
    1:  cmp dword ptr [rip + seen], 2
        jb 1b
        done
    on_irq:
        inc dword ptr [rip + seen]
        say [rip + seen]
        mov ebx, 0xfee00000
        mov dword ptr [rbx + 0xb0], 0
        in al, 0x60
        ret
    seen: .long 0
    """
    )
    event, resample = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    try:
        with Guest(source, irqchip=True) as guest:
            guest.vm.irqfd(event, 10, abi.IRQFD_FLAG_RESAMPLE, resample)
            for n in (1, 2):
                os.eventfd_write(event, 1)
                until(guest, exits.IoExit)
                assert guest.said == list(range(1, n + 1))
                assert _count(resample) == 1
            until(guest, exits.Hlt)
    finally:
        os.close(event)
        os.close(resample)


# ---- interrupts without a chip in the core ----------------


def test_interrupt_window() -> None:
    """KVM_INTERRUPT once the guest lets it: ready_for_interrupt_injection, IRQ_WINDOW_OPEN."""
    source = """
        handle 0x33, on_irq
        nop
        in al, 0x60
        sti
        nop
        mov ecx, 1000000
    1:  loop 1b
        done
    on_irq: say 33; ret
    """
    with Guest(source) as guest:
        until(guest, exits.IoExit)
        shared = guest.vcpu.shared
        assert (shared.ready_for_interrupt_injection, shared.if_flag) == (0, 0)
        shared.request_interrupt_window = 1
        until(guest, exits.IrqWindowOpen)
        assert (shared.ready_for_interrupt_injection, shared.if_flag) == (1, 1)
        shared.request_interrupt_window = 0
        guest.vcpu.interrupt(0x33)
        until(guest, exits.Hlt)
        assert guest.said == [33]


def test_falling_tpr_exits() -> None:
    """KVM_EXIT_SET_TPR when CR8 falls; kvm_run.cr8 goes both ways. KVM API 5"""
    with Guest("mov rax, cr8\n say eax\n mov eax, 9\n mov cr8, rax\n mov eax, 4\n"
               " mov cr8, rax\n done") as guest:  # fmt: skip
        guest.vcpu.shared.cr8 = 3
        assert until(guest, exits.OtherExit) == exits.OtherExit(abi.Exit.SET_TPR)
        assert guest.vcpu.shared.cr8 == 4
        until(guest, exits.Hlt)
        assert guest.said == [3]


def test_falling_tpr_of_a_lapic_in_the_core_is_nobody_elses() -> None:
    """No exit; kvm_run.cr8 tells of it at those that there are."""
    source = "mov eax, 9\n mov cr8, rax\n out 0x99, al\n mov eax, 4\n mov cr8, rax\n done"
    with Guest(source, irqchip=True) as guest:
        assert isinstance(guest.run(), exits.IoExit)
        assert guest.vcpu.shared.cr8 == 9
        assert isinstance(guest.run(), exits.Hlt)
        assert guest.vcpu.shared.cr8 == 4


# ---- memory ----------------


def test_dirty_log_and_read_only() -> None:
    """Written pages are logged once a reading; writes to a READONLY slot are MMIO."""
    source = """
        mov ecx, 2
    1:  mov dword ptr [0x80004], ecx
        mov dword ptr [0x90004], ecx
        in al, 0x60
        loop 1b
        mov eax, [0xa0004]
        mov [0xa0004], eax
        done
    """
    with Guest(source) as guest:
        vm, host = guest.vm, guest.host
        vm.set_user_memory_region(0, 0, 0, 0)
        vm.set_user_memory_region(0, 0, 0x80000, host)
        vm.set_user_memory_region(1, 0x80000, 0x20000, host + 0x80000, 1)
        vm.set_user_memory_region(2, 0xA0000, RAM_BYTES - 0xA0000, host + 0xA0000, 2)
        for _ in range(2):
            until(guest, exits.IoExit)
            assert vm.get_dirty_log(1, 32) == (1 | 1 << 16).to_bytes(8, "little")
        assert vm.get_dirty_log(1, 32) == bytes(8)
        end = until(guest, exits.MmioExit)
        assert isinstance(end, exits.MmioExit)
        assert (end.gpa, end.is_write) == (0xA0004, True)
        until(guest, exits.Hlt)


# ---- the state of a vCPU ----------------


def test_sync_regs() -> None:
    """Registers in kvm_run instead of ioctls. KVM API 6.45"""
    with Guest("in al, 0x60\n say ebx\n done") as guest:
        shared = guest.vcpu.shared
        shared.kvm_valid_regs = 1
        until(guest, exits.IoExit)
        regs = abi.KvmRegs.from_buffer(shared.s)
        assert regs.rip == guest.vcpu.get_regs().rip
        regs.rbx = 0x1234
        shared.kvm_dirty_regs = 1
        until(guest, exits.Hlt)
        assert guest.said == [0x1234]
        assert shared.kvm_dirty_regs == 0
        shared.kvm_valid_regs = 8
        with pytest.raises(OSError, match="Invalid argument"):
            guest.vcpu.run()
        del regs


def test_shutdown_and_after() -> None:
    """A triple fault ends in SHUTDOWN; the state can be set and the guest run again."""
    with Guest("mov qword ptr [0x4ff0], 0\n lidt [0x4ff0]\n int3\nagain: say 1\n done") as guest:
        until(guest, exits.Shutdown)
        regs = guest.vcpu.get_regs()
        regs.rip = guest.labels["again"]
        guest.vcpu.set_regs(regs)
        until(guest, exits.Hlt)
        assert guest.said == [1]


def test_injected_exception() -> None:
    """KVM_SET_VCPU_EVENTS: #GP with an error code, delivered before the next instruction."""
    with Guest("handle 13, on_gp\n in al, 0x60\n say 2\n done\non_gp: say [rsi + 8]; ret") as guest:
        until(guest, exits.IoExit)
        guest.vcpu.set_immediate_exit(True)
        assert isinstance(guest.vcpu.run(), exits.Interrupted)  # the IN is finished
        guest.vcpu.set_immediate_exit(False)
        events = guest.vcpu.get_vcpu_events()
        raw = bytearray(bytes(events))
        raw[0:8] = bytes([1, 13, 1, 0]) + (0x58).to_bytes(4, "little")
        guest.vcpu.set_vcpu_events(abi.KvmVcpuEvents.from_buffer(raw))
        until(guest, exits.Hlt)
        assert guest.said == [0x58, 2]


def test_statistics_count_exits() -> None:
    with Guest(
        "out 0x50, al\n out 0x50, al\n mov ebx, 0xfec00000\n mov [rbx], eax\n done"
    ) as guest:
        stats = guest.vcpu.open_stats()
        before = stats.read()
        while not isinstance(guest.run(), exits.Hlt):
            pass
        after = stats.read()
        stats.close()
        assert after["mmio_exits"] - before["mmio_exits"] == 1
        assert after["io_exits"] - before["io_exits"] == 3  # and the end
