"""docs/abi.md is what the C sources say, and the core answers as it says."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import pytest

from kvm_core.door import DirectDoor
from tools import abi_differences as differences
from tools import abi_page

CHECK_EXTENSION, GET_MSR_INDEX_LIST, GET_MSR_FEATURE_INDEX_LIST = 0xAE03, 0xC004AE02, 0xC004AE0A
OTHER_MACHINES = re.compile(r"KVM_(EXIT_)?(S390|PPC|ARM|RISCV|LOONGARCH|SPAPR|CREATE_SPAPR)")
# Requests and exits without the name of their machine in them.
OF_OTHERS = {"KVM_ALLOCATE_RMA", "KVM_DIRTY_TLB"}
OF_OTHERS |= {f"KVM_EXIT_{name}" for name in ("DCR", "OSI", "PAPR_HCALL", "EPR", "AP_RESET_HOLD")}
OF_OTHERS |= {"KVM_EXIT_MEMORY_FAULT"}  # younger: guest_memfd


@pytest.fixture
def system() -> Iterator[tuple[DirectDoor, int]]:
    door = DirectDoor()
    fd = door.open()
    yield door, fd
    door.close(fd)


def test_page_is_current() -> None:
    assert abi_page.PAGE.read_text() == abi_page.render(), "make generate"


def test_capabilities(system: tuple[DirectDoor, int]) -> None:
    """The core has those of the page and no other."""
    door, fd = system
    names = abi_page.header_numbers("KVM_CAP_")
    said = {names[name] for name in abi_page.capabilities()}
    assert {n for n in range(400) if door.ioctl(fd, CHECK_EXTENSION, n)} == said


@pytest.mark.parametrize("which", [0, 1])
def test_msr_lists(system: tuple[DirectDoor, int], which: int) -> None:
    door, fd = system
    room = bytearray(struct.pack("=I", 1000) + bytes(4000))
    door.ioctl(fd, (GET_MSR_INDEX_LIST, GET_MSR_FEATURE_INDEX_LIST)[which], room)
    (count,) = struct.unpack_from("=I", room)
    assert list(struct.unpack_from(f"={count}I", room, 4)) == abi_page.msr_lists()[which]


def test_every_request_is_spoken_for() -> None:
    """What <linux/kvm.h> has is answered, or absent for a reason; not both."""
    answered = {name for names in abi_page.requests().values() for name in names}
    assert set(differences.REQUESTS) <= answered
    assert not set(differences.ABSENT) & answered
    known = answered | set(differences.ABSENT) | OF_OTHERS
    unknown = set(abi_page.header_requests()) - known
    assert {name for name in unknown if not OTHER_MACHINES.match(name)} == set()


def test_every_exit_is_spoken_for() -> None:
    seen = set(abi_page.exit_reasons())
    assert not set(differences.EXITS_NEVER) & seen
    names = set(abi_page.header_numbers("KVM_EXIT_")) - seen - set(differences.EXITS_NEVER)
    details = re.compile(r"KVM_EXIT_(IO_|HYPERV_|XEN_)")
    left = {name for name in names - OF_OTHERS if not OTHER_MACHINES.match(name)}
    assert {name for name in left if not details.match(name)} == set()
