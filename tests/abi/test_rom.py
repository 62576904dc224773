"""Writes to a READONLY memory slot: each exits as MMIO and leaves the memory whole. KVM API 4.35"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from kvm_core import exits
from kvm_core.door import DeviceDoor, DirectDoor, Door
from tests.abi.guest import RAM_BYTES, Guest

ROM, ROM_BYTES = 0xA0000, 0x10000
CODE, CODE_AT = b"\xb8\x01\x00\x00\x00\xc3", 0x300  # mov eax, 1; ret
PATTERN = bytes((7 * n) & 0xFF for n in range(ROM_BYTES))
PATTERN = PATTERN[:CODE_AT] + CODE + PATTERN[CODE_AT + len(CODE) :]


@pytest.fixture(params=["direct", pytest.param("/dev/kvm", marks=pytest.mark.host_kvm)])
def door(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Door]:
    """The core in this process, and the host's KVM where it runs guests of this kind."""
    if request.param == "direct":
        yield DirectDoor()
        return
    if not os.access(request.param, os.R_OK | os.W_OK):
        need(False, "a /dev/kvm of the host's")
    one = DeviceDoor(request.param)
    try:
        with Guest("say 1\n done", door=one) as probe:
            runs = isinstance(probe.run(), exits.Hlt) and probe.said == [1]
    except OSError:
        runs = False
    if not runs:
        pytest.skip("the host's /dev/kvm does not run a 64-bit guest at CPL 0")
    yield one


class Rom:
    """A guest with a ROM in the midst of its memory, and what it tried to write there."""

    def __init__(self, source: str, door: Door) -> None:
        self.guest = Guest(source + "\n done", door=door)
        vm, host = self.guest.vm, self.guest.host
        self.guest.ram[ROM : ROM + ROM_BYTES] = PATTERN
        vm.set_user_memory_region(0, 0, 0, 0)
        vm.set_user_memory_region(0, 0, ROM, host)
        vm.set_user_memory_region(1, ROM, ROM_BYTES, host + ROM, 2)
        end = ROM + ROM_BYTES
        vm.set_user_memory_region(2, end, RAM_BYTES - end, host + end)

    def run(self) -> list[tuple[int, bytes]]:
        """Run to the end; return the writes as (gpa, data). The ROM is what it was."""
        writes = []
        while not isinstance(end := self.guest.run(), exits.Hlt):
            assert isinstance(end, exits.MmioExit), end
            assert end.is_write
            writes.append((end.gpa, bytes(end.data)))
        assert self.guest.ram[ROM : ROM + ROM_BYTES] == PATTERN
        return writes

    def __enter__(self) -> Rom:
        return self

    def __exit__(self, *_: object) -> None:
        self.guest.close()


def word(at: int, size: int = 4) -> int:
    """What the ROM holds."""
    return int.from_bytes(PATTERN[at : at + size], "little")


def little(value: int, size: int = 4) -> bytes:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_plain_store(door: Door, size: int) -> None:
    register = {1: "cl", 2: "cx", 4: "ecx", 8: "rcx"}[size]
    source = f"""
        mov rcx, 0x1122334455667788
        mov [{ROM + 0x123}], {register}
        say [{ROM + 0x123}]                 # read from memory, without an exit
    """
    with Rom(source, door) as rom:
        assert rom.run() == [(ROM + 0x123, little(0x1122334455667788, size))]
        assert rom.guest.said == [word(0x123)]


# instruction -> what is written at ROM + 0x40 when eax is 5 and memory holds `old`
READ_MODIFY_WRITE: dict[str, Callable[[int], int]] = {
    "add [rbx], eax": lambda old: old + 5,
    "lock add [rbx], eax": lambda old: old + 5,
    "not dword ptr [rbx]": lambda old: ~old,
    "xchg [rbx], eax": lambda _: 5,
    "lock xadd [rbx], eax": lambda old: old + 5,
    "lock bts dword ptr [rbx], 30": lambda old: old | 1 << 30,
    "shl dword ptr [rbx], 3": lambda old: old << 3,
}


@pytest.mark.parametrize("instruction", READ_MODIFY_WRITE)
def test_read_modify_write(door: Door, instruction: str) -> None:
    """The old value comes from the memory, the new one goes to the client."""
    with Rom(f"mov ebx, {ROM + 0x40}; mov eax, 5; {instruction}; say [rbx]", door) as rom:
        new = READ_MODIFY_WRITE[instruction](word(0x40))
        assert rom.run() == [(ROM + 0x40, little(new))]
        assert rom.guest.said == [word(0x40)]


def test_compare_and_exchange(door: Door) -> None:
    """Equal: the new value is written; ZF tells."""
    source = f"""
        mov ebx, {ROM + 0x80}
        mov eax, [rbx]
        mov ecx, 0x12345678
        lock cmpxchg [rbx], ecx
        setz al
        movzx eax, al
        say eax
    """
    with Rom(source, door) as rom:
        assert rom.run() == [(ROM + 0x80, little(0x12345678))]
        assert rom.guest.said == [1]


def joined(writes: list[tuple[int, bytes]]) -> dict[int, int]:
    """Bytes by address; nothing is written twice."""
    found = {gpa + n: byte for gpa, data in writes for n, byte in enumerate(data)}
    assert len(found) == sum(len(data) for _, data in writes)
    return found


def test_string_store(door: Door) -> None:
    source = f"cld; mov edi, {ROM + 0xFF8}; mov eax, 0x5a; mov ecx, 40; rep stosb\n say ecx"
    with Rom(source, door) as rom:
        assert joined(rom.run()) == dict.fromkeys(range(ROM + 0xFF8, ROM + 0xFF8 + 40), 0x5A)
        assert rom.guest.said == [0]


def test_vector_store(door: Door) -> None:
    """16 bytes, unaligned and over a page boundary, in pieces that kvm_run has room for."""
    source = f"movups xmm0, [{ROM + 0x200}]; movups [{ROM + 0x1FF9}], xmm0"
    with Rom(source, door) as rom:
        writes = rom.run()
        assert all(len(data) <= 8 for _, data in writes)
        expected = {ROM + 0x1FF9 + n: PATTERN[0x200 + n] for n in range(16)}
        assert joined(writes) == expected


@pytest.mark.parametrize("at", [ROM - 3, ROM + ROM_BYTES - 5])
def test_store_half_in_the_rom(door: Door, at: int) -> None:
    """What lies in RAM is written there, the rest goes to the client."""
    source = f"mov rcx, 0x8877665544332211; mov [{at}], rcx"
    with Rom(source, door) as rom:
        written = joined(rom.run())
        for n in range(8):
            byte = 0x11 * (n + 1)
            if ROM <= at + n < ROM + ROM_BYTES:
                assert written.pop(at + n) == byte
            else:
                assert rom.guest.ram[at + n] == byte
        assert not written


def test_code_in_the_rom_does_not_change(door: Door) -> None:
    """It runs, tries to patch itself, and runs as it was."""
    source = f"""
        mov ebx, {ROM + CODE_AT}
        call rbx
        say eax
        mov dword ptr [rbx + 1], 2
        call rbx
        say eax
    """
    with Rom(source, door) as rom:
        assert rom.run() == [(ROM + CODE_AT + 1, little(2))]
        assert rom.guest.said == [1, 1]


def test_page_tables_in_the_rom() -> None:
    """Accessed and dirty flags cannot be set there, and the walk goes on without, as KVM's does."""
    source = f"""
        mov rax, {ROM}
        mov cr3, rax
        mov dword ptr [0x9f000], 7          # would make the leaf dirty
        say [0x9f000]
    """
    with Rom(source, DirectDoor()) as rom:
        tables = bytearray(rom.guest.ram[0x1000:0x4000])
        for at in range(0, len(tables), 8):
            entry = int.from_bytes(tables[at : at + 8], "little")
            if entry & 0x80 == 0 and entry:
                entry += ROM - 0x1000
            tables[at : at + 8] = (entry & ~0x60).to_bytes(8, "little")
        rom.guest.ram[ROM : ROM + len(tables)] = bytes(tables)
        end = rom.guest.run()
        assert isinstance(end, exits.Hlt), end
        assert rom.guest.said == [7]
        assert rom.guest.ram[ROM : ROM + len(tables)] == tables
