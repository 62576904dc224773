"""INVLPG and large pages: every fragment that was cached goes, whichever address is named."""

from __future__ import annotations

import struct

import pytest

from kvm_core import abi, exits
from tests.abi.guest import PDPT, Guest

TABLE, SMALL = 0x80000, 0x81000  # page tables of the tests
GIB, LARGE = 1 << 30, 2 << 20
HERE = GIB  # the linear addresses of PDPT entry 1
RIGHTS, PS = 7, 0x80


def entry(guest: Guest, at: int, value: int) -> None:
    """Write an entry of a paging structure."""
    struct.pack_into("<Q", guest.ram, at, value)


def mmio(guest: Guest) -> tuple[int, bool]:
    """Run to an access where there is no memory: gpa, write."""
    end = guest.run()
    assert isinstance(end, exits.MmioExit), (end, guest.said)
    return end.gpa, end.is_write


@pytest.mark.parametrize("named", [0, 0x1FF123, 0x90010])
def test_fragments_of_two_mebibytes(named: int) -> None:
    """Read, written and executed ones; INVLPG need not name one of them."""
    source = f"""
        mov ebx, {HERE}
        mov eax, [rbx + 0x70010]
        mov [rbx + 0x90010], eax
        mov byte ptr [0xa0000], 0xc3
        lea rcx, [rbx + 0xa0000]
        call rcx
        mov qword ptr [{TABLE}], {LARGE | RIGHTS | PS}
        invlpg [rbx + {named}]
        mov eax, [rbx + 0x70010]
        mov [rbx + 0x90010], eax
        call rcx
        done
    """
    with Guest(source) as guest:
        entry(guest, PDPT + 8, TABLE | RIGHTS)
        entry(guest, TABLE, RIGHTS | PS)
        assert mmio(guest) == (LARGE + 0x70010, False)
        assert mmio(guest) == (LARGE + 0x90010, True)
        assert isinstance(guest.run(), exits.InternalError)  # no memory to fetch from
        assert guest.vcpu.get_regs().rip == HERE + 0xA0000


@pytest.mark.parametrize("regions", [(1, 5, 100), (0, 1, 2, 255, 256, 511)])
def test_fragments_of_a_gibibyte(regions: tuple[int, ...]) -> None:
    """They lie in many regions of 2 MiB; in the second case not all have a place of their own."""
    places = [LARGE * n + 0x1000 * n for n in regions]
    touch = "".join(f"mov al, [rbx + {place}]\n" for place in places)
    source = f"""
        mov ebx, {HERE}
        {touch}
        mov dword ptr [{PDPT + 8}], {2 * GIB | RIGHTS | PS}
        invlpg [rbx + 0x12345678]
        {touch}
        done
    """
    with Guest(source) as guest:
        for slot, place in enumerate(places, 1):
            guest.vm.set_user_memory_region(slot, GIB + place, 0x1000, guest.host)
        entry(guest, PDPT + 8, GIB | RIGHTS | PS)
        if not any(e.function == 0x80000001 and e.edx >> 26 & 1 for e in guest.vcpu.get_cpuid2()):
            pytest.skip("this processor has no pages of 1 GiB")
        assert [mmio(guest) for _ in places] == [(2 * GIB + place, False) for place in places]


def test_more_regions_than_places() -> None:
    """512 large pages, each with a fragment of its own, all exchanged and invalidated."""
    source = f"""
        xor edi, edi
    again:
        mov ebx, {HERE}
        xor ecx, ecx
    1:  mov edx, ecx
        and edx, 0x7f
        shl edx, 12
        add edx, ebx
        mov eax, [rdx + 8]
        add ebx, {LARGE}
        inc ecx
        cmp ecx, 512
        jb 1b
        test edi, edi
        jnz finish
        inc edi
        xor ecx, ecx
        mov ebx, {HERE}
    2:  add dword ptr [{TABLE} + rcx * 8], {LARGE}
        invlpg [rbx]
        add ebx, {LARGE}
        inc ecx
        cmp ecx, 512
        jb 2b
        jmp again
    finish: done
    """
    with Guest(source) as guest:
        entry(guest, PDPT + 8, TABLE | RIGHTS)
        for n in range(512):
            entry(guest, TABLE + 8 * n, RIGHTS | PS)
        assert [mmio(guest)[0] for _ in range(512)] == [
            LARGE + (n & 0x7F) * 0x1000 + 8 for n in range(512)
        ]
        assert isinstance(guest.run(), exits.Hlt)


def test_small_page_in_place_of_a_large_one() -> None:
    """INVLPG of a small page drops the fragments of the large one that it replaces."""
    source = f"""
        mov ebx, {HERE}
        mov eax, [rbx + 0x3010]
        mov eax, [rbx + 0x4010]
        mov qword ptr [{TABLE}], {SMALL | RIGHTS}
        invlpg [rbx + 0x5000]
        mov eax, [rbx + 0x3010]
        mov eax, [rbx + 0x4010]
        mov qword ptr [{SMALL + 8 * 4}], {LARGE | RIGHTS}
        invlpg [rbx + 0x4fff]
        mov eax, [rbx + 0x4010]
        done
    """
    with Guest(source) as guest:
        entry(guest, PDPT + 8, TABLE | RIGHTS)
        entry(guest, TABLE, RIGHTS | PS)
        entry(guest, SMALL + 8 * 3, 3 * LARGE | RIGHTS)
        entry(guest, SMALL + 8 * 4, 4 * LARGE | RIGHTS)
        assert [mmio(guest)[0] for _ in range(3)] == [
            3 * LARGE + 0x10,
            4 * LARGE + 0x10,
            LARGE + 0x10,
        ]
        assert isinstance(guest.run(), exits.Hlt)


def test_four_mebibytes() -> None:
    """32-bit paging: a page of two regions."""
    source = f"""
    .code32
    compat:
        mov ebx, {HERE}
        mov eax, [ebx + 0x1010]
        mov eax, [ebx + 0x201010]
        mov dword ptr [{TABLE} + 4 * {HERE >> 22}], {2 * LARGE | RIGHTS | PS}
        invlpg [ebx + 0x3ff000]
        mov eax, [ebx + 0x1010]
        mov eax, [ebx + 0x201010]
        hlt
    .code64
    """
    with Guest(source) as guest:
        sregs = guest.vcpu.get_sregs()
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80010011, TABLE, 0x610, 0
        sregs.cs = abi.KvmSegment(selector=8, limit=0xFFFFFFFF, type=11, present=1, s=1, g=1, db=1)
        guest.vcpu.set_sregs(sregs)
        regs = guest.vcpu.get_regs()
        regs.rip = guest.labels["compat"]
        guest.vcpu.set_regs(regs)
        for n in (0, HERE >> 22):
            entry(guest, TABLE + 4 * n, RIGHTS | PS)
        got = [mmio(guest)[0] for _ in range(3)]
        assert got == [LARGE + 0x1010, 2 * LARGE + 0x1010, 3 * LARGE + 0x1010]
        assert isinstance(guest.run(), exits.Hlt)
