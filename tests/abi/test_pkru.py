"""PKRU as a component of the XSAVE area, which no host need have: SDM vol. 1, chapter 13.

The expected values are the manual's. A guest's area is at 0xc000; `run` sets CR4.OSXSAVE, PKE, and
XCR0 to x87, SSE, AVX if it is offered, and PKRU.
"""

from __future__ import annotations

import struct

import pytest

from kvm_core.abi import KvmCpuidEntry2, KvmXsave
from tests.abi.guest import Guest

AREA, PKRU, COMPACT = 0xC000, 1 << 9, 1 << 63
PREPARE = f"""
    mov rax, cr4
    or eax, 1 << 18 | 1 << 22
    mov cr4, rax
    mov eax, 0xd
    xor ecx, ecx
    cpuid
    mov ebp, eax                # XCR0 to be
    xor ecx, ecx
    xor edx, edx
    xsetbv
    mov ebx, {AREA}
"""
WRPKRU = "mov eax, {0:#x}; xor ecx, ecx; xor edx, edx; wrpkru\n"
RFBM = "mov eax, {0:#x}; xor edx, edx; "


class Run:
    """A guest that has run, its CPUID and the area it left."""

    def __init__(self, source: str, area: bytes = b"", end: type | None = None) -> None:
        self.guest = Guest(PREPARE + source + "\n done")
        self.guest.ram[AREA : AREA + len(area)] = area
        entries = self.guest.vcpu.get_cpuid2()
        self.leaf = {e.index: e for e in entries if e.function == 0xD}
        self.offset = self.leaf[9].ebx
        self.end = self.guest.run()
        self.said = self.guest.said

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.guest.close()

    def word(self, at: int, size: int = 8) -> int:
        """A number in the area."""
        return int.from_bytes(self.guest.ram[AREA + at : AREA + at + size], "little")

    @property
    def header(self) -> tuple[int, int]:
        """XSTATE_BV, XCOMP_BV."""
        return self.word(512), self.word(520)


def area(bv: int, comp: int, at: int, pkru: int) -> bytes:
    """An image with PKRU at offset `at`; MXCSR is the initial one."""
    image = bytearray(4096)
    struct.pack_into("<I", image, 24, 0x1F80)
    struct.pack_into("<QQ", image, 512, bv, comp)
    struct.pack_into("<I", image, at, pkru)
    return bytes(image)


def pkru_offset() -> int:
    with Guest("done") as guest:
        return next(e.ebx for e in guest.vcpu.get_cpuid2() if (e.function, e.index) == (0xD, 9))


def test_cpuid() -> None:
    """13.2: size, offset, a user component without alignment; sizes of areas as enabled."""
    source = f"""
        mov eax, 0xd; xor ecx, ecx; cpuid; say ebx; say ecx
        mov eax, 0xd; mov ecx, 1; cpuid; say ebx
        mov eax, 0xd; mov ecx, 9; cpuid; say eax; say ebx; say ecx; say edx
        mov eax, {1 | PKRU}; xor ecx, ecx; xor edx, edx; xsetbv
        mov eax, 0xd; xor ecx, ecx; cpuid; say ebx
        mov eax, 0xd; mov ecx, 1; cpuid; say ebx
    """
    with Run(source) as run:
        end = run.offset + 8
        vectors = 256 if run.leaf[0].eax & 4 else 0
        assert run.leaf[0].eax & PKRU
        assert 576 + vectors <= run.offset <= 4088
        assert run.said[:3] == [end, end, 576 + vectors + 8]
        assert run.said[3:7] == [8, run.offset, 0, 0]
        assert run.said[7:] == [end, 576 + 8]


@pytest.mark.parametrize("value", [0, 0x55555554])
def test_xsave(value: int) -> None:
    """13.7: written whether in use or not; XSTATE_BV is XINUSE; 13.6: not in use when 0."""
    source = WRPKRU.format(value) + RFBM.format(PKRU) + "xsave [rbx]"
    with Run(source, b"\xaa" * 512 + bytes(64) + b"\xaa" * 3000) as run:
        assert run.header == (PKRU if value else 0, 0)
        assert run.word(run.offset) == value
        assert run.word(run.offset - 8) == run.word(run.offset + 8) == 0xAAAAAAAAAAAAAAAA


def test_xsave_of_others_leaves_it() -> None:
    source = WRPKRU.format(0x10) + RFBM.format(3) + "xsave [rbx]"
    offset = pkru_offset()
    with Run(source, area(PKRU, 0, offset, 0x77)) as run:
        assert run.header[0] & PKRU
        assert run.word(offset) == 0x77


@pytest.mark.parametrize("value", [0, 0x0C])
def test_xsaveopt(value: int) -> None:
    """13.9: the initial state is not written."""
    source = WRPKRU.format(value) + RFBM.format(PKRU) + "xsaveopt [rbx]"
    offset = pkru_offset()
    with Run(source, area(PKRU, 0, offset, 0x77)) as run:
        assert run.header[0] == (PKRU if value else 0)
        assert run.word(offset) == (value or 0x77)


@pytest.mark.parametrize("instruction", ["xsavec", "xsaves"])
@pytest.mark.parametrize("mask", [PKRU, PKRU | 1, PKRU | 7])
def test_compacted(instruction: str, mask: int) -> None:
    """13.4.3: behind the components before it that XCOMP_BV has."""
    source = WRPKRU.format(0xC0) + RFBM.format(mask) + f"and eax, ebp; {instruction} [rbx]"
    with Run(source) as run:
        mask &= run.leaf[0].eax
        assert run.header[1] == COMPACT | mask
        assert run.header[0] & PKRU
        assert run.word(576 + (256 if mask & 4 else 0)) == 0xC0


def test_xgetbv_1() -> None:
    """13.6: XINUSE of what is enabled."""
    read = "mov ecx, 1; xgetbv; say eax\n"
    with Run(WRPKRU.format(0) + read + WRPKRU.format(4) + read) as run:
        assert [said & PKRU for said in run.said] == [0, PKRU]


READ = "xor ecx, ecx; rdpkru; say eax\n"


@pytest.mark.parametrize(
    ("bv", "comp", "mask", "expected"),
    [
        (PKRU, 0, PKRU, 0x30),  # loaded
        (0, 0, PKRU, 0),  # to its initial state
        (PKRU, 0, 7, 0xC),  # not asked for
        (PKRU, COMPACT | PKRU, PKRU, 0x30),
        (PKRU, COMPACT | PKRU | 2, PKRU | 7, 0x30),
        (PKRU, COMPACT | PKRU | 4, PKRU, 0x30),  # behind AVX, which is not loaded
        (0, COMPACT | PKRU, PKRU, 0),
    ],
)
@pytest.mark.parametrize("instruction", ["xrstor", "xrstors"])
def test_restored(instruction: str, bv: int, comp: int, mask: int, expected: int) -> None:
    """13.8, 13.12"""
    if instruction == "xrstors" and not comp:
        comp = COMPACT | PKRU  # it takes no other
    offset = pkru_offset() if not comp else 576 + (256 if comp & 4 else 0)
    source = WRPKRU.format(0xC) + RFBM.format(mask) + f"and eax, ebp; {instruction} [rbx]\n" + READ
    with Run(source, area(bv, comp, offset, 0x30)) as run:
        if comp & 4 & ~run.leaf[0].eax:
            pytest.skip("no AVX")
        assert run.said == [expected], run.end


def test_refused() -> None:
    """13.3: XCR0[0] must be set. 13.8.1: no component that XCR0 has not; no fault changes PKRU."""
    offset = pkru_offset()
    handler = "handle 13, on_gp\n jmp begin\non_gp: say 13; mov rax, [rsp - 8]\n"
    handler += "add qword ptr [rsi + 16], 4\n ret\nbegin:\n"
    source = (
        handler
        + WRPKRU.format(0xC)
        + f"mov eax, {PKRU}; xor ecx, ecx; xor edx, edx; xsetbv; nop\n"
        + "mov eax, 7; and eax, ebp; xsetbv\n"
        + RFBM.format(1)
        + ".byte 0x0f, 0xae, 0x6b, 0\n"  # xrstor [rbx + 0], of 4 bytes
        + READ
    )
    with Run(source, area(PKRU | 1, 0, offset, 0x30)) as run:
        assert run.said == [13, 13, 0xC], run.end


def test_restored_rights_count_at_once() -> None:
    """The TLB holds no rights of the old PKRU. SDM vol. 3, 4.6.2"""
    source = (
        """
        handle 14, on_pf
        mov rax, 0x0800000000000087     # key 1, a user page
        mov [0x3008], rax               # linear 2 MiB to 4 MiB: physical 0
        mov rax, cr3
        mov cr3, rax
        mov ebx, 0x200000 + 0xe000
        """
        + WRPKRU.format(0)
        + "mov eax, [rbx]; mov [rbx], eax\n"
        + f"mov ecx, {AREA};"
        + RFBM.format(PKRU)
        + """
        xrstor [rcx]
        say 1
        mov eax, [rbx]                  # reading is allowed
        mov [rbx], eax
        say 2
        done
        on_pf:
        say [rsi + 8]
        """
        + WRPKRU.format(0)
        + "ret"
    )
    with Run(source, area(PKRU, 0, pkru_offset(), 8)) as run:
        assert run.said == [1, 0x23, 2], run.end


# ---- the client's side: KVM_GET_XSAVE, KVM_SET_XSAVE ----------------


def xstate(state: KvmXsave) -> bytearray:
    return bytearray(bytes(state))


def test_client_saves_and_restores() -> None:
    offset = pkru_offset()
    with Guest(PREPARE + WRPKRU.format(0x1234) + "in al, 0x60\n" + READ + "done") as guest:
        guest.run()
        image = xstate(guest.vcpu.get_xsave())
        assert struct.unpack_from("<Q", image, 512)[0] & PKRU
        assert struct.unpack_from("<Q", image, offset)[0] == 0x1234
        struct.pack_into("<I", image, offset, 0x4320)
        guest.vcpu.set_xsave(KvmXsave.from_buffer(image))
        guest.run()
        assert guest.said == [0x4320]


@pytest.mark.parametrize(("bv", "expected"), [(PKRU, 0x1234), (0, 0)])
def test_client_that_has_no_place_for_it(bv: int, expected: int) -> None:
    """QEMU describes components by the host's CPUID: where that lacks PKRU, with the offset 0.

    The guest gets the true layout, and such a client's images, with XSTATE_BV[9] set but nothing
    at the place, do not change PKRU; a cleared bit still resets it.
    """
    source = """
        mov eax, 0xd; mov ecx, 9; cpuid; say ebx
        mov eax, 0xd; xor ecx, ecx; cpuid; say ecx
    """
    offset = pkru_offset()
    with Guest(PREPARE + WRPKRU.format(0x1234) + source + "in al, 0x60\n" + READ + "done") as guest:
        cpuid: list[KvmCpuidEntry2] = guest.kvm.get_supported_cpuid()
        for entry in cpuid:
            if (entry.function, entry.index) == (0xD, 9):
                entry.ebx = 0
            if (entry.function, entry.index) == (0xD, 0):
                entry.ecx = 832
        guest.vcpu.set_cpuid2(cpuid)
        guest.run()
        assert guest.said == [offset, offset + 8]
        image = xstate(guest.vcpu.get_xsave())
        image[576:] = bytes(len(image) - 576)
        struct.pack_into("<Q", image, 512, bv)
        guest.vcpu.set_xsave(KvmXsave.from_buffer(image))
        guest.run()
        assert guest.said[2:] == [expected]
