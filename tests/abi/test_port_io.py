"""Between a port exit and the next KVM_RUN: what the client sees and may change (KVM API 5)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from kvm_core import abi, exits
from kvm_core.door import DirectDoor
from tests.abi.guest import Guest
from tests.abi.test_contract import (
    EINTR,
    GET_REGS,
    GET_SREGS,
    INTERRUPT,
    NMI,
    PAGE,
    RUN,
    SET_REGS,
    SET_SREGS,
    Client,
    client,
)

__all__ = ["client"]  # a fixture
CODE, STACK, HANDLERS, DATA, VECTORS = 0x1000, 0x8000, 0x2000, 0x4000, 256
EXIT_IO, EXIT_HLT = 2, 5
PORT = 0x10
OUT, IN8, IN16, IN32, HLT, NOP = b"\xee", b"\xec", b"\xed", b"\x66\xed", b"\xf4", b"\x90"
REP_INSB = b"\xf3\x6c"
ELSEWHERE = 0x40
NUMBER = {"rax": 0, "rcx": 2, "rdx": 3, "rsp": 6, "rdi": 5, "rip": 16, "rflags": 17}  # kvm_regs


class Real:
    """A real-mode guest behind one raw client; vector n is served by a HLT at HANDLERS + n."""

    def __init__(self, client: Client, code: bytes, *, rax: int = 0, rflags: int = 2) -> None:
        self.client, vm = client, client.vm()
        self.ram = client.memory(16)
        assert client.slot(vm, 0, 0, 16 * PAGE, self.ram) == 0
        table = b"".join(struct.pack("=HH", HANDLERS + n, 0) for n in range(VECTORS))
        for at, content in (
            (0, table),
            (HANDLERS, HLT * (VECTORS + 1)),
            (CODE, code),
            (CODE + ELSEWHERE, NOP + HLT),
        ):
            ctypes.memmove(self.ram + at, content, len(content))
        self.vcpu = client.vcpu(vm)
        self.shared = client.door.mmap(self.vcpu, 3 * PAGE)
        self.place(0)
        self.set(rax=rax, rdx=PORT, rsp=STACK, rip=CODE, rflags=rflags)

    def place(self, base: int) -> None:
        """Set CS."""
        sregs = bytearray(312)
        assert self.client.call(self.vcpu, GET_SREGS, sregs) == 0
        struct.pack_into("=Q", sregs, 0, base)
        struct.pack_into("=H", sregs, 12, base >> 4)
        assert self.client.call(self.vcpu, SET_SREGS, bytes(sregs)) == 0

    def limit_es(self, limit: int) -> None:
        """KVM_SET_SREGS."""
        sregs = bytearray(312)
        assert self.client.call(self.vcpu, GET_SREGS, sregs) == 0
        struct.pack_into("=I", sregs, 2 * 24 + 8, limit)
        assert self.client.call(self.vcpu, SET_SREGS, bytes(sregs)) == 0

    def regs(self) -> SimpleNamespace:
        """KVM_GET_REGS."""
        raw = bytearray(144)
        assert self.client.call(self.vcpu, GET_REGS, raw) == 0
        at = struct.unpack("=18Q", raw)
        names = ("rax", "rcx", "rdx", "rsp", "rdi", "rip", "rflags")
        return SimpleNamespace(**{name: at[NUMBER[name]] for name in names})

    def set(self, **changes: int) -> None:
        """KVM_GET_REGS, KVM_SET_REGS."""
        all_of = {**vars(self.regs()), **changes}
        words = [0] * 18
        for name, value in all_of.items():
            words[NUMBER[name]] = value
        assert self.client.call(self.vcpu, SET_REGS, struct.pack("=18Q", *words)) == 0

    def run(self) -> int:
        """Return the exit reason."""
        assert self.client.call(self.vcpu, RUN) == 0
        return int(struct.unpack_from("=I", self.shared, 8)[0])

    def answer(self, data: bytes) -> None:
        """What the IN that has exited reads."""
        at = struct.unpack_from("=Q", self.shared, 40)[0]
        self.shared[at : at + len(data)] = data

    def stacked_ip(self) -> int:
        """Where the handler that was entered will return to."""
        return int.from_bytes(ctypes.string_at(self.ram + self.regs().rsp, 2), "little")


@pytest.fixture
def real(client: Client) -> Iterator[Callable[..., Real]]:
    """Make guests."""
    made: list[Real] = []

    def make(code: bytes, **state: int) -> Real:
        made.append(Real(client, code, **state))
        return made[-1]

    yield make
    for guest in made:
        guest.shared.close()


def test_out_goes_on_behind_it(real: Callable[..., Real]) -> None:
    """KVM's emulator advances RIP before the exit, its quick path after it: one of both."""
    guest = real(OUT + NOP + OUT + HLT, rax=0x55)
    for at in (CODE, CODE + 2):
        assert guest.run() == EXIT_IO
        assert struct.unpack_from("=BBHIQ", guest.shared, 32) == (1, 1, PORT, 1, PAGE)
        assert guest.shared[PAGE] == 0x55
        assert guest.regs().rip in (at, at + 1)
    assert guest.run() == EXIT_HLT
    assert guest.regs().rip == CODE + 4


def test_out_7e_is_behind_it(real: Callable[..., Real]) -> None:
    """KVM_X86_QUIRK_OUT_7E_INC_RIP: QEMU's option ROM is patched at RIP - 2."""
    guest = real(b"\xe6\x7e" + HLT)
    assert guest.run() == EXIT_IO
    assert guest.regs().rip == CODE + 2
    assert guest.run() == EXIT_HLT


@pytest.mark.parametrize("code", [OUT, IN8])
def test_unchanged_registers_change_nothing(real: Callable[..., Real], code: bytes) -> None:
    guest = real(code + NOP + HLT, rax=0x1234)
    assert guest.run() == EXIT_IO
    guest.set()
    guest.place(0)
    guest.answer(b"\x34")
    assert guest.run() == EXIT_HLT
    assert (guest.regs().rip, guest.regs().rax) == (CODE + 3, 0x1234)


def test_out_and_elsewhere(real: Callable[..., Real]) -> None:
    guest = real(OUT + NOP + HLT)
    assert guest.run() == EXIT_IO
    guest.set(rip=CODE + ELSEWHERE)
    assert guest.run() == EXIT_HLT
    assert guest.regs().rip == CODE + ELSEWHERE + 2


def test_count_lowered_by_the_client(real: Callable[..., Real]) -> None:
    """Between the exit of a REP INS and its end: no more elements than RCX then says."""
    guest = real(REP_INSB + HLT)
    guest.set(rcx=2, rdi=DATA)
    assert guest.run() == EXIT_IO
    assert struct.unpack_from("=BBHI", guest.shared, 32) == (0, 1, PORT, 2)
    guest.set(rcx=1)
    guest.answer(b"ab")
    assert guest.run() == EXIT_HLT
    assert (guest.regs().rcx, guest.regs().rdi) == (0, DATA + 1)
    assert ctypes.string_at(guest.ram + DATA, 2) == b"a\0"


def test_ins_goes_to_the_segments_end() -> None:
    """Ours alone: KVM stores no element of the exit in which one is beyond it."""
    own = Client(DirectDoor())
    guest = Real(own, REP_INSB + HLT)
    guest.limit_es(DATA + 3)
    guest.set(rcx=6, rdi=DATA)
    assert guest.run() == EXIT_IO
    assert struct.unpack_from("=I", guest.shared, 36)[0] == 4
    guest.answer(b"abcdef")
    assert guest.run() == EXIT_HLT
    assert (guest.regs().rcx, guest.regs().rdi) == (2, DATA + 4)
    assert guest.regs().rip == HANDLERS + 13 + 1
    assert ctypes.string_at(guest.ram + DATA, 6) == b"abcd\0\0"
    guest.shared.close()
    own.close()


@pytest.mark.parametrize("how", ["rip", "cs"])
def test_in_and_elsewhere(how: str) -> None:
    """The answer is lost. Ours alone: where a host emulates real mode, KVM mixes both."""
    own = Client(DirectDoor())
    guest = Real(own, IN8 + NOP + HLT, rax=0x1111)
    assert guest.run() == EXIT_IO
    guest.answer(b"\x5a")
    if how == "rip":
        guest.set(rip=CODE + ELSEWHERE)
    else:
        guest.place(ELSEWHERE)
    assert guest.run() == EXIT_HLT
    assert guest.regs().rax == 0x1111
    assert guest.regs().rip == (CODE + ELSEWHERE + 2 if how == "rip" else CODE + 2)
    guest.shared.close()
    own.close()


@pytest.mark.parametrize(
    ("code", "after"),
    [(IN8, 0xFEDC_BA98_7654_32D1), (IN16, 0xFEDC_BA98_7654_D2D1), (IN32, 0xD4D3D2D1)],
)
def test_immediate_exit_completes_in(real: Callable[..., Real], code: bytes, after: int) -> None:
    """What KVM documents as the way to a consistent state: nothing is half done then."""
    guest = real(code + NOP + HLT, rax=0xFEDC_BA98_7654_3210)
    assert guest.run() == EXIT_IO
    assert guest.regs().rip == CODE
    guest.answer(b"\xd1\xd2\xd3\xd4")
    guest.shared[1] = 1  # immediate_exit
    assert guest.client.call(guest.vcpu, RUN) == EINTR
    assert (guest.regs().rip, guest.regs().rax) == (CODE + len(code), after)
    other = real(code + NOP + HLT)  # "migrated"
    other.set(**vars(guest.regs()))
    guest.shared[1] = 0
    for one in (guest, other):
        assert one.run() == EXIT_HLT
        assert one.regs().rax == after


@pytest.mark.parametrize("code", [OUT, IN8, b"\xfb" + OUT, b"\xfb" + IN8])
@pytest.mark.parametrize("event", ["nmi", "interrupt"])
def test_events_come_behind_it(real: Callable[..., Real], code: bytes, event: str) -> None:
    """Also behind STI, whose shadow ends with the instruction."""
    guest = real(code + NOP + HLT, rflags=0x202)
    assert guest.run() == EXIT_IO
    guest.answer(b"\x77")
    if event == "nmi":
        assert guest.client.call(guest.vcpu, NMI) == 0
    else:
        assert guest.client.call(guest.vcpu, INTERRUPT, struct.pack("=I", 0x40)) == 0
    assert guest.run() == EXIT_HLT
    vector = 2 if event == "nmi" else 0x40
    assert guest.regs().rip == HANDLERS + vector + 1
    assert guest.stacked_ip() == CODE + len(code)
    assert guest.regs().rax == (0x77 if IN8 in code else 0)


def test_steps_survive_set_regs() -> None:
    """A debugger that writes registers back after each exit still sees every step."""
    source = "one: in al, 0x60\ntwo: out 0x60, al\nthree: nop\nfour: done"
    with Guest(source) as guest:
        vcpu, labels = guest.vcpu, guest.labels
        vcpu.set_guest_debug(
            abi.GUESTDBG_ENABLE | abi.GUESTDBG_USE_HW_BP, [labels["one"], *[0] * 6, 0x401]
        )
        assert isinstance(guest.run(), exits.Debug)
        vcpu.set_guest_debug(abi.GUESTDBG_ENABLE | abi.GUESTDBG_SINGLESTEP)
        seen = []
        for _ in range(5):
            end = vcpu.run()
            seen.append(end.pc if isinstance(end, exits.Debug) else type(end).__name__)
            vcpu.set_regs(vcpu.get_regs())
        two, three, four = (labels[name] for name in ("two", "three", "four"))
        assert seen == ["IoExit", two, "IoExit", three, four]


def test_init_between() -> None:
    """The vCPU is reset while an IN waits: what waits is forgotten, also where RIP is the same."""
    with Guest("here: in al, 0x60\n say eax\n done", irqchip=True) as guest:
        at_here = [guest.run()]
        guest.vm.signal_msi(0xFEE00000, 5 << 8 | 1 << 14)  # INIT to APIC 0
        assert guest.vcpu.get_mp_state() == abi.MP_STATE_RUNNABLE
        assert guest.vcpu.get_regs().rip == 0xFFF0
        guest.place(guest.labels["here"])
        at_here.append(guest.run())
        assert [(e.port, e.is_write) for e in at_here if isinstance(e, exits.IoExit)] == [
            (0x60, False)
        ] * 2
