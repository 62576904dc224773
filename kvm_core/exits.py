"""What KVM_RUN returned with, one type per exit reason; the names are those of struct kvm_run."""

from __future__ import annotations

from typing import dataclass_transform


@dataclass_transform()
class _Exit:
    """A record of what its class annotates. Making dataclasses of them all is 5 ms of a start."""

    def __init__(self, *values: object) -> None:
        self.__dict__.update(zip(type(self).__annotations__, values, strict=True))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class IoExit(_Exit):
    """A port access. `data` is count * size bytes of the shared page; an IN is answered by
    writing there.
    """

    port: int
    size: int
    count: int
    is_write: bool
    data: memoryview


class MmioExit(_Exit):
    """A memory access outside of every slot; a read is answered by writing `data`."""

    gpa: int
    size: int
    is_write: bool
    data: memoryview


class Hlt(_Exit):
    """HLT, where the interrupt chip is not in the core."""


class Interrupted(_Exit):
    """EINTR or EAGAIN: a signal or immediate_exit; nothing is wrong, run again."""


class IrqWindowOpen(_Exit):
    """The guest can take the interrupt that was waited for."""


class Shutdown(_Exit):
    """A triple fault."""


class FailEntry(_Exit):
    """The vCPU's state cannot be entered."""

    reason: int
    cpu: int


class InternalError(_Exit):
    """The core gave up; data is for a bug report."""

    suberror: int
    data: tuple[int, ...]


class Debug(_Exit):
    """A breakpoint or step of KVM_SET_GUEST_DEBUG."""

    exception: int
    pc: int
    dr6: int
    dr7: int


class SystemEvent(_Exit):
    """Power-off, reset or crash by a hypercall; see SYSTEM_EVENT_*."""

    type: int
    data: tuple[int, ...]


class IoapicEoi(_Exit):
    """EOI of a vector that a user-space IOAPIC wanted to see."""

    vector: int


class Rdmsr(_Exit):
    """RDMSR left to the VMM (KVM_CAP_X86_USER_SPACE_MSR)."""

    index: int
    reason: int


class Wrmsr(_Exit):
    """WRMSR left to the VMM."""

    index: int
    data: int
    reason: int


class Hypercall(_Exit):
    """VMCALL left to the VMM."""

    nr: int
    args: tuple[int, ...]
    longmode: bool


class OtherExit(_Exit):
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
