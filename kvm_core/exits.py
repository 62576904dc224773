"""What KVM_RUN returned with, one type per exit reason; the names are those of struct kvm_run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class IoExit:
    """A port access. `data` is count * size bytes of the shared page; an IN is answered by
    writing there.
    """

    port: int
    size: int
    count: int
    is_write: bool
    data: memoryview


@dataclass(slots=True)
class MmioExit:
    """A memory access outside of every slot; a read is answered by writing `data`."""

    gpa: int
    size: int
    is_write: bool
    data: memoryview


@dataclass(frozen=True, slots=True)
class Hlt:
    """HLT, where the interrupt chip is not in the core."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """EINTR or EAGAIN: a signal or immediate_exit; nothing is wrong, run again."""


@dataclass(frozen=True, slots=True)
class IrqWindowOpen:
    """The guest can take the interrupt that was waited for."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A triple fault."""


@dataclass(frozen=True, slots=True)
class FailEntry:
    """The vCPU's state cannot be entered."""

    reason: int
    cpu: int


@dataclass(frozen=True, slots=True)
class InternalError:
    """The core gave up; data is for a bug report."""

    suberror: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Debug:
    """A breakpoint or step of KVM_SET_GUEST_DEBUG."""

    exception: int
    pc: int
    dr6: int
    dr7: int


@dataclass(frozen=True, slots=True)
class SystemEvent:
    """Power-off, reset or crash by a hypercall; see SYSTEM_EVENT_*."""

    type: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IoapicEoi:
    """EOI of a vector that a user-space IOAPIC wanted to see."""

    vector: int


@dataclass(frozen=True, slots=True)
class Rdmsr:
    """RDMSR left to the VMM (KVM_CAP_X86_USER_SPACE_MSR)."""

    index: int
    reason: int


@dataclass(frozen=True, slots=True)
class Wrmsr:
    """WRMSR left to the VMM."""

    index: int
    data: int
    reason: int


@dataclass(frozen=True, slots=True)
class Hypercall:
    """VMCALL left to the VMM."""

    nr: int
    args: tuple[int, ...]
    longmode: bool


@dataclass(frozen=True, slots=True)
class OtherExit:
    """An exit that this module has no type for."""

    reason: int


VcpuExit = (
    IoExit
    | MmioExit
    | Hlt
    | Interrupted
    | IrqWindowOpen
    | Shutdown
    | FailEntry
    | InternalError
    | Debug
    | SystemEvent
    | IoapicEoi
    | Rdmsr
    | Wrmsr
    | Hypercall
    | OtherExit
)
