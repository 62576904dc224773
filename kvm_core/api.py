"""`Kvm`, `Vm` and `Vcpu`: the KVM objects as Python objects, over any door.

One method per call, named as the call; structures are those of kvm_core.abi. A refused call
raises OSError with KVM's errno and the names of call and door: this is the ABI, not a policy.
`Vcpu.run()` returns a typed exit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from ctypes import sizeof
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeVar

from kvm_core import abi, exits
from kvm_core.abi import Cap, Exit
from kvm_core.door import DeviceDoor, DirectDoor, Door, HostMemory, open_door
from kvm_core.models import apply_cpu_model, cpu_model_names
from kvm_core.standing import StandingAnswers

__all__ = [
    "CoalescedWrite",
    "DeviceDoor",
    "DirectDoor",
    "Door",
    "Kvm",
    "Vcpu",
    "Vm",
    "apply_cpu_model",
    "cpu_model_names",
    "open_door",
]

S = TypeVar("S", bound=ctypes.Structure)

_IO = struct.Struct("<BBHIQ")
_MMIO_HEAD = struct.Struct("<Q")
_MMIO_TAIL = struct.Struct("<IB")
_REASON = struct.Struct("<I")
_RING = struct.Struct("<II")
_RING_ENTRY = struct.Struct("<QII8s")
_EXIT_OFFSET = abi.KvmRun.exit.offset
_REASON_OFFSET = abi.KvmRun.exit_reason.offset
_IMMEDIATE_EXIT_OFFSET = abi.KvmRun.immediate_exit.offset


def _request_name(request: int) -> str:
    """KVM's name of a request, for messages only."""
    for name, value in vars(abi).items():
        if name.startswith("KVM_") and value == request:
            return name
    return f"ioctl {request:#x}"


class _Object:
    """A descriptor behind a door; closed once, also by `with`."""

    def __init__(self, door: Door, fd: int) -> None:
        self.door = door
        self.fd = fd

    def ioctl(
        self,
        request: int,
        arg: int | ctypes.Structure | ctypes.Array[ctypes.c_char] | bytearray | ctypes.c_uint64 = 0,
    ) -> int:
        """Pass one call on. :raise OSError: with KVM's errno, naming the call and the door."""
        if self.fd < 0:  # closed; its number may be another file's by now
            raise self._refused(request, errno.EBADF)
        try:
            return self.door.ioctl(self.fd, request, arg)
        except OSError as error:
            raise self._refused(request, error.errno or 0) from None

    def _refused(self, request: int, number: int) -> OSError:
        what = f"{_request_name(request)} on --kvm {self.door.name}"
        return OSError(number, f"{what}: {os.strerror(number)}")

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.door.close(fd)

    def check_extension(self, cap: Cap | int) -> int:
        """Return the value of a capability, 0 if it is not there."""
        return self.ioctl(abi.KVM_CHECK_EXTENSION, int(cap))

    def _get(self, request: int, what: type[S]) -> S:
        answer = what()
        self.ioctl(request, answer)
        return answer

    def enable_cap(self, cap: Cap | int, *args: int) -> None:
        """KVM_ENABLE_CAP."""
        self.ioctl(
            abi.KVM_ENABLE_CAP, abi.KvmEnableCap(cap=int(cap), args=(ctypes.c_uint64 * 4)(*args))
        )


def _list_request(obj: _Object, request: int, head: int, item: int, first: int = 64) -> bytearray:
    """Call with a growing list until the answer fits (E2BIG), and return the answer."""
    count = first
    while True:
        buffer = bytearray(head + count * item)
        struct.pack_into("<I", buffer, 0, count)
        try:
            obj.ioctl(request, buffer)
        except OSError as error:
            if error.errno != errno.E2BIG or count > 1 << 16:
                raise
            count *= 2
            continue
        found = int(struct.unpack_from("<I", buffer)[0])
        return buffer[: head + found * item]


def _get_cpuid(obj: _Object, request: int) -> list[abi.KvmCpuidEntry2]:
    item = sizeof(abi.KvmCpuidEntry2)
    raw = _list_request(obj, request, 8, item)
    return [abi.KvmCpuidEntry2.from_buffer_copy(raw, offset) for offset in range(8, len(raw), item)]


def _get_msrs(obj: _Object, indices: Sequence[int]) -> dict[int, int]:
    buffer = bytearray(8 + 16 * len(indices))
    struct.pack_into("<I", buffer, 0, len(indices))
    for i, index in enumerate(indices):
        struct.pack_into("<IIQ", buffer, 8 + 16 * i, index, 0, 0)
    count = obj.ioctl(abi.KVM_GET_MSRS, buffer)
    answer = {}
    for i in range(count):
        index, _, value = struct.unpack_from("<IIQ", buffer, 8 + 16 * i)
        answer[index] = value
    return answer


class Kvm(_Object):
    """The system object: what /dev/kvm itself answers."""

    def __init__(self, door: Door) -> None:
        """Open the door."""
        super().__init__(door, door.open())

    def __enter__(self) -> Kvm:
        """Use it with `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def get_api_version(self) -> int:
        """KVM_GET_API_VERSION: 12 (KVM API 4.1)."""
        return self.ioctl(abi.KVM_GET_API_VERSION)

    def create_vm(self, kind: int = 0) -> Vm:
        """KVM_CREATE_VM (KVM API 4.2)."""
        return Vm(self, self.ioctl(abi.KVM_CREATE_VM, kind))

    def get_vcpu_mmap_size(self) -> int:
        """Bytes to map from a vCPU's descriptor (KVM API 4.5)."""
        return self.ioctl(abi.KVM_GET_VCPU_MMAP_SIZE)

    def get_supported_cpuid(self) -> list[abi.KvmCpuidEntry2]:
        """Everything the core can offer a guest (KVM API 4.46)."""
        return _get_cpuid(self, abi.KVM_GET_SUPPORTED_CPUID)

    def get_msr_index_list(self) -> list[int]:
        """MSRs that a VMM should save (KVM API 4.3)."""
        return self._msr_list(abi.KVM_GET_MSR_INDEX_LIST)

    def get_msr_feature_index_list(self) -> list[int]:
        """MSRs that describe the processor (KVM API 4.3)."""
        return self._msr_list(abi.KVM_GET_MSR_FEATURE_INDEX_LIST)

    def get_msrs(self, indices: Sequence[int]) -> dict[int, int]:
        """Values of feature MSRs; those after an unknown one are missing (KVM API 4.18)."""
        return _get_msrs(self, indices)

    def _msr_list(self, request: int) -> list[int]:
        raw = _list_request(self, request, 4, 4)
        return list(struct.unpack_from(f"<{(len(raw) - 4) // 4}I", raw, 4))


class CoalescedWrite(NamedTuple):
    """Writes that the core kept for later: in a row to one place, `size` bytes of `data` each."""

    address: int
    size: int
    is_pio: bool
    data: bytes


class Vm(_Object):
    """A virtual machine: memory slots, interrupt chips, vCPUs."""

    def __init__(self, kvm: Kvm, fd: int) -> None:
        """Wrap the descriptor that KVM_CREATE_VM returned."""
        super().__init__(kvm.door, fd)
        self.kvm = kvm
        self.vcpu_mmap_size = kvm.get_vcpu_mmap_size()
        self._ring_lock = threading.Lock()
        self._ring: mmap.mmap | None = None
        self.standing = StandingAnswers()
        self.memory: dict[int, HostMemory] = {}  # by slot

    def __enter__(self) -> Vm:
        """Use it with `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """KVM_CREATE_VCPU (KVM API 4.7)."""
        vcpu = Vcpu(self, self.ioctl(abi.KVM_CREATE_VCPU, vcpu_id), vcpu_id)
        if self._ring is None and self.vcpu_mmap_size > abi.PAGE_SIZE * 2:
            self._ring = vcpu.map
        return vcpu

    def set_user_memory_region(
        self, slot: int, gpa: int, size_bytes: int, host: HostMemory, flags: int = 0
    ) -> None:
        """Add, move, change or (size 0) delete a slot (KVM API 4.35).

        `host`: an object of ctypes, where the slot's memory begins. It is kept while a vCPU can get
        there. Or an address, of memory that the caller keeps.
        """
        address = host if isinstance(host, int) else ctypes.addressof(host)
        self.ioctl(
            abi.KVM_SET_USER_MEMORY_REGION,
            abi.KvmUserspaceMemoryRegion(slot, flags, gpa, size_bytes, address),
        )
        if not size_bytes:
            self.memory.pop(slot, None)
        elif not isinstance(host, int):
            self.memory[slot] = host

    def close(self) -> None:
        """Close the descriptor. Its vCPUs keep the machine, and its memory, until they are closed
        and no thread is inside.
        """
        self.memory = {}
        super().close()

    def get_dirty_log(self, slot: int, pages: int) -> bytes:
        """Pages written since the last call, one bit each (KVM API 4.8)."""
        bitmap = (ctypes.c_uint8 * ((pages + 63) // 64 * 8))()
        self.ioctl(abi.KVM_GET_DIRTY_LOG, abi.KvmDirtyLog(slot, 0, ctypes.addressof(bitmap)))
        return bytes(bitmap)

    def set_tss_addr(self, gpa: int) -> None:
        """KVM_SET_TSS_ADDR: three pages below 4 GiB (KVM API 4.36)."""
        self.ioctl(abi.KVM_SET_TSS_ADDR, gpa)

    def set_identity_map_addr(self, gpa: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one page below 4 GiB (KVM API 4.40)."""
        self.ioctl(abi.KVM_SET_IDENTITY_MAP_ADDR, ctypes.c_uint64(gpa))

    def set_boot_cpu_id(self, vcpu_id: int) -> None:
        """KVM_SET_BOOT_CPU_ID (KVM API 4.41)."""
        self.ioctl(abi.KVM_SET_BOOT_CPU_ID, vcpu_id)

    def create_irqchip(self) -> None:
        """Two 8259, an IOAPIC, and a LAPIC in each vCPU to come (KVM API 4.24)."""
        self.ioctl(abi.KVM_CREATE_IRQCHIP)

    def create_pit2(self, flags: int = 0) -> None:
        """KVM_CREATE_PIT2 (KVM API 4.71)."""
        self.ioctl(abi.KVM_CREATE_PIT2, abi.KvmPitConfig(flags=flags))

    def get_pit2(self) -> abi.KvmPitState2:
        """KVM_GET_PIT2."""
        return self._get(abi.KVM_GET_PIT2, abi.KvmPitState2)

    def set_pit2(self, state: abi.KvmPitState2) -> None:
        """KVM_SET_PIT2."""
        self.ioctl(abi.KVM_SET_PIT2, state)

    def get_irqchip(self, chip_id: int) -> abi.KvmIrqchip:
        """KVM_GET_IRQCHIP: IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC."""
        chip = abi.KvmIrqchip(chip_id=chip_id)
        self.ioctl(abi.KVM_GET_IRQCHIP, chip)
        return chip

    def set_irqchip(self, chip: abi.KvmIrqchip) -> None:
        """KVM_SET_IRQCHIP."""
        self.ioctl(abi.KVM_SET_IRQCHIP, chip)

    def irq_line(self, gsi: int, level: int) -> None:
        """KVM_IRQ_LINE (KVM API 4.25)."""
        self.ioctl(abi.KVM_IRQ_LINE, abi.KvmIrqLevel(gsi, level))

    def irqfd(self, fd: int, gsi: int, flags: int = 0, resamplefd: int = 0) -> None:
        """KVM_IRQFD (KVM API 4.75)."""
        self.ioctl(abi.KVM_IRQFD, abi.KvmIrqfd(fd=fd, gsi=gsi, flags=flags, resamplefd=resamplefd))

    def ioeventfd(
        self, fd: int, address: int, size: int, datamatch: int | None = None, flags: int = 0
    ) -> None:
        """KVM_IOEVENTFD (KVM API 4.59); flags may add IOEVENTFD_FLAG_PIO or _DEASSIGN."""
        if datamatch is not None:
            flags |= abi.IOEVENTFD_FLAG_DATAMATCH
        self.ioctl(
            abi.KVM_IOEVENTFD,
            abi.KvmIoeventfd(datamatch=datamatch or 0, addr=address, len=size, fd=fd, flags=flags),
        )

    def set_gsi_routing(self, entries: Sequence[abi.KvmIrqRoutingEntry]) -> None:
        """KVM_SET_GSI_ROUTING: the whole table (KVM API 4.52)."""
        raw = bytearray(bytes(abi.KvmIrqRouting(nr=len(entries))) + b"".join(map(bytes, entries)))
        self.ioctl(abi.KVM_SET_GSI_ROUTING, raw)

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI; how many vCPUs took it (KVM API 4.70)."""
        return self.ioctl(
            abi.KVM_SIGNAL_MSI,
            abi.KvmMsi(address_lo=address & 0xFFFFFFFF, address_hi=address >> 32, data=data),
        )

    def get_clock(self) -> abi.KvmClockData:
        """KVM_GET_CLOCK (KVM API 4.29)."""
        return self._get(abi.KVM_GET_CLOCK, abi.KvmClockData)

    def set_clock(self, clock: abi.KvmClockData) -> None:
        """KVM_SET_CLOCK (KVM API 4.30)."""
        self.ioctl(abi.KVM_SET_CLOCK, clock)

    def register_coalesced(self, address: int, size: int, pio: bool = False) -> None:
        """Let writes to this range collect in the ring (KVM API 4.116)."""
        self.ioctl(abi.KVM_REGISTER_COALESCED_MMIO, abi.KvmCoalescedMmioZone(address, size, pio))

    def unregister_coalesced(self, address: int, size: int, pio: bool = False) -> None:
        """Undo register_coalesced."""
        self.ioctl(abi.KVM_UNREGISTER_COALESCED_MMIO, abi.KvmCoalescedMmioZone(address, size, pio))

    def drain_coalesced(self) -> list[CoalescedWrite]:
        """Take what has collected in the ring, oldest first; for any thread."""
        ring, base = self._ring, abi.PAGE_SIZE * abi.COALESCED_MMIO_PAGE_OFFSET
        if ring is None:
            return []
        limit, entries = (abi.PAGE_SIZE - 8) // 24, base + 8
        with self._ring_lock:
            first, last = _RING.unpack_from(ring, base)
            if first == last or first >= limit or last >= limit:
                return []
            end = last if first < last else limit
            taken = ring[entries + 24 * first : entries + 24 * end]
            if end != last:
                taken += ring[entries : entries + 24 * last]
            struct.pack_into("<I", ring, base, last)
        return [
            CoalescedWrite(address, size, bool(pio), b"".join(data[:size] for *_, data in run))
            for (address, size, pio), run in groupby(
                _RING_ENTRY.iter_unpack(taken), itemgetter(0, 1, 2)
            )
        ]

    def coalesced_pending(self) -> bool:
        """Say, cheaply, whether drain_coalesced would return something."""
        if self._ring is None:
            return False
        first, last = _RING.unpack_from(self._ring, abi.PAGE_SIZE * abi.COALESCED_MMIO_PAGE_OFFSET)
        return bool(first != last)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ on the VM."""
        return self.ioctl(abi.KVM_GET_TSC_KHZ)

    def open_stats(self) -> StatsReader:
        """KVM_GET_STATS_FD: the VM's statistics."""
        return StatsReader(self)

    def forget_ring(self, mapping: mmap.mmap) -> None:
        """Stop reading the ring in this mapping, which is about to go."""
        with self._ring_lock:
            if self._ring is mapping:
                self._ring = None


class StatsReader:
    """An open binary stats file (KVM API 4.133): can be read while the vCPU runs."""

    def __init__(self, obj: _Object) -> None:
        """Open it and read the descriptors. :raise OSError: without KVM_CAP_BINARY_STATS_FD."""
        self.fd = obj.ioctl(abi.KVM_GET_STATS_FD)
        head_bytes = os.pread(self.fd, sizeof(abi.KvmStatsHeader), 0)
        head = abi.KvmStatsHeader.from_buffer_copy(head_bytes)
        size = sizeof(abi.KvmStatsDesc) + head.name_size
        raw = os.pread(self.fd, size * head.num_desc, head.desc_offset)
        self._data_offset = head.data_offset
        self._offsets: dict[str, int] = {}
        for at in range(0, size * head.num_desc, size):
            desc = abi.KvmStatsDesc.from_buffer_copy(raw, at)
            kind = desc.flags & abi.STATS_TYPE_MASK
            if kind < abi.STATS_TYPE_LINEAR_HIST and desc.size == 1:
                name = raw[at + sizeof(abi.KvmStatsDesc) : at + size].split(b"\0")[0]
                self._offsets[name.decode("ascii")] = desc.offset
        self._data_bytes = max(self._offsets.values(), default=-8) + 8

    def read(self) -> dict[str, int]:
        """Return single values by name; histograms are left out."""
        data = os.pread(self.fd, self._data_bytes, self._data_offset)
        return {
            name: int.from_bytes(data[at : at + 8], "little") for name, at in self._offsets.items()
        }

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


class Vcpu(_Object):
    """A virtual processor. One thread at a time may be inside."""

    def __init__(self, vm: Vm, fd: int, vcpu_id: int) -> None:
        """Wrap the descriptor that KVM_CREATE_VCPU returned and map its pages."""
        super().__init__(vm.door, fd)
        self.vm = vm
        self.id = vcpu_id
        self.map = vm.door.mmap(fd, vm.vcpu_mmap_size)
        self._view = memoryview(self.map)
        self._mmio_data = self._view[_EXIT_OFFSET + 8 : _EXIT_OFFSET + 16]
        enter = partial(vm.door.runner(fd, self.map, vm.standing.table))
        vars(enter)["memory"] = vm.memory  # a call under way outlives close()
        self._enter: Callable[[], int] = enter

    @property
    def shared(self) -> abi.KvmRun:
        """struct kvm_run, live."""
        return abi.KvmRun.from_buffer(self.map)

    def run(self) -> exits.VcpuExit:
        """Enter the guest (KVM_RUN, KVM API 4.10) and say why it came back: for what no standing
        answer serves.
        """
        result = self._enter()
        if result < 0:
            if -result in (errno.EINTR, errno.EAGAIN):
                return _INTERRUPTED
            raise self._refused(abi.KVM_RUN, -result)
        reason = _REASON.unpack_from(self.map, _REASON_OFFSET)[0]
        if reason == 2:  # Exit.IO, the one that must be quick
            direction, size, port, count, offset = _IO.unpack_from(self.map, _EXIT_OFFSET)
            return exits.IoExit(
                port, size, count, direction == 1, self._view[offset : offset + size * count]
            )
        if reason == 6:  # Exit.MMIO
            (gpa,) = _MMIO_HEAD.unpack_from(self.map, _EXIT_OFFSET)
            size, is_write = _MMIO_TAIL.unpack_from(self.map, _EXIT_OFFSET + 16)
            return exits.MmioExit(gpa, size, is_write != 0, self._mmio_data[:size])
        return self._rare_exit(reason)

    def _rare_exit(self, reason: int) -> exits.VcpuExit:
        run = abi.KvmRun.from_buffer_copy(self._view[: sizeof(abi.KvmRun)])
        match reason:
            case Exit.HLT:
                return exits.Hlt()
            case Exit.INTR:
                return _INTERRUPTED
            case Exit.IRQ_WINDOW_OPEN:
                return exits.IrqWindowOpen()
            case Exit.SHUTDOWN:
                return exits.Shutdown()
            case Exit.FAIL_ENTRY:
                fail = run.fail_entry
                return exits.FailEntry(fail.hardware_entry_failure_reason, fail.cpu)
            case Exit.INTERNAL_ERROR:
                count = min(run.internal.ndata, 16)
                return exits.InternalError(run.internal.suberror, tuple(run.internal.data[:count]))
            case Exit.DEBUG:
                at = run.debug
                return exits.Debug(at.exception, at.pc, at.dr6, at.dr7)
            case Exit.SYSTEM_EVENT:
                count = min(run.system_event.ndata, 16)
                data = tuple(run.system_event.data[:count])
                return exits.SystemEvent(run.system_event.type, data)
            case Exit.IOAPIC_EOI:
                return exits.IoapicEoi(run.eoi.vector)
            case Exit.X86_RDMSR:
                return exits.Rdmsr(run.msr.index, run.msr.reason)
            case Exit.X86_WRMSR:
                return exits.Wrmsr(run.msr.index, run.msr.data, run.msr.reason)
            case Exit.HYPERCALL:
                call = run.hypercall
                return exits.Hypercall(call.nr, tuple(call.args), bool(call.longmode))
        return exits.OtherExit(reason)

    def set_immediate_exit(self, value: bool) -> None:
        """Make the next (or the present, with a signal) KVM_RUN return EINTR; for any thread."""
        self.map[_IMMEDIATE_EXIT_OFFSET] = int(value)

    def kick(self) -> None:
        """Make a KVM_RUN under way notice immediate_exit, where the door needs no signal for
        that.
        """
        self.door.kick(self.fd)

    def get_regs(self) -> abi.KvmRegs:
        """KVM_GET_REGS."""
        return self._get(abi.KVM_GET_REGS, abi.KvmRegs)

    def set_regs(self, regs: abi.KvmRegs) -> None:
        """KVM_SET_REGS."""
        self.ioctl(abi.KVM_SET_REGS, regs)

    def get_sregs(self) -> abi.KvmSregs:
        """KVM_GET_SREGS."""
        return self._get(abi.KVM_GET_SREGS, abi.KvmSregs)

    def set_sregs(self, sregs: abi.KvmSregs) -> None:
        """KVM_SET_SREGS."""
        self.ioctl(abi.KVM_SET_SREGS, sregs)

    def get_sregs2(self) -> abi.KvmSregs2:
        """KVM_GET_SREGS2."""
        return self._get(abi.KVM_GET_SREGS2, abi.KvmSregs2)

    def set_sregs2(self, sregs: abi.KvmSregs2) -> None:
        """KVM_SET_SREGS2."""
        self.ioctl(abi.KVM_SET_SREGS2, sregs)

    def get_fpu(self) -> abi.KvmFpu:
        """KVM_GET_FPU."""
        return self._get(abi.KVM_GET_FPU, abi.KvmFpu)

    def set_fpu(self, fpu: abi.KvmFpu) -> None:
        """KVM_SET_FPU."""
        self.ioctl(abi.KVM_SET_FPU, fpu)

    def get_msrs(self, indices: Sequence[int]) -> dict[int, int]:
        """KVM_GET_MSRS; the first unknown index and those after it are missing."""
        return _get_msrs(self, indices)

    def set_msrs(self, values: dict[int, int]) -> int:
        """KVM_SET_MSRS; how many were set before the first that was refused."""
        raw = bytearray(struct.pack("<II", len(values), 0))
        for index, value in values.items():
            raw += struct.pack("<IIQ", index, 0, value)
        return self.ioctl(abi.KVM_SET_MSRS, raw)

    def set_cpuid2(self, entries: Iterable[abi.KvmCpuidEntry2]) -> None:
        """KVM_SET_CPUID2 (KVM API 4.20)."""
        body = b"".join(bytes(entry) for entry in entries)
        count = len(body) // sizeof(abi.KvmCpuidEntry2)
        self.ioctl(abi.KVM_SET_CPUID2, bytearray(struct.pack("<II", count, 0) + body))

    def get_cpuid2(self) -> list[abi.KvmCpuidEntry2]:
        """KVM_GET_CPUID2."""
        return _get_cpuid(self, abi.KVM_GET_CPUID2)

    def get_lapic(self) -> abi.KvmLapicState:
        """KVM_GET_LAPIC."""
        return self._get(abi.KVM_GET_LAPIC, abi.KvmLapicState)

    def set_lapic(self, state: abi.KvmLapicState) -> None:
        """KVM_SET_LAPIC."""
        self.ioctl(abi.KVM_SET_LAPIC, state)

    def get_mp_state(self) -> int:
        """KVM_GET_MP_STATE: MP_STATE_*."""
        return int(self._get(abi.KVM_GET_MP_STATE, abi.KvmMpState).mp_state)

    def set_mp_state(self, state: int) -> None:
        """KVM_SET_MP_STATE."""
        self.ioctl(abi.KVM_SET_MP_STATE, abi.KvmMpState(state))

    def get_vcpu_events(self) -> abi.KvmVcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        return self._get(abi.KVM_GET_VCPU_EVENTS, abi.KvmVcpuEvents)

    def set_vcpu_events(self, events: abi.KvmVcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        self.ioctl(abi.KVM_SET_VCPU_EVENTS, events)

    def get_debugregs(self) -> abi.KvmDebugregs:
        """KVM_GET_DEBUGREGS."""
        return self._get(abi.KVM_GET_DEBUGREGS, abi.KvmDebugregs)

    def set_debugregs(self, regs: abi.KvmDebugregs) -> None:
        """KVM_SET_DEBUGREGS."""
        self.ioctl(abi.KVM_SET_DEBUGREGS, regs)

    def get_xsave(self) -> abi.KvmXsave:
        """KVM_GET_XSAVE."""
        return self._get(abi.KVM_GET_XSAVE, abi.KvmXsave)

    def set_xsave(self, state: abi.KvmXsave) -> None:
        """KVM_SET_XSAVE."""
        self.ioctl(abi.KVM_SET_XSAVE, state)

    def get_xcrs(self) -> abi.KvmXcrs:
        """KVM_GET_XCRS."""
        return self._get(abi.KVM_GET_XCRS, abi.KvmXcrs)

    def set_xcrs(self, xcrs: abi.KvmXcrs) -> None:
        """KVM_SET_XCRS."""
        self.ioctl(abi.KVM_SET_XCRS, xcrs)

    def set_guest_debug(self, control: int, debugreg: Sequence[int] = ()) -> None:
        """KVM_SET_GUEST_DEBUG (KVM API 4.87)."""
        self.ioctl(
            abi.KVM_SET_GUEST_DEBUG,
            abi.KvmGuestDebug(control=control, arch=(ctypes.c_uint64 * 8)(*debugreg)),
        )

    def translate(self, linear_address: int) -> abi.KvmTranslation:
        """KVM_TRANSLATE (KVM API 4.15)."""
        answer = abi.KvmTranslation(linear_address=linear_address)
        self.ioctl(abi.KVM_TRANSLATE, answer)
        return answer

    def kvmclock_ctrl(self) -> None:
        """KVM_KVMCLOCK_CTRL: the guest was paused (KVM API 4.73); EINVAL if it has no clock."""
        self.ioctl(abi.KVM_KVMCLOCK_CTRL)

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT, without an interrupt chip in the core (KVM API 4.16)."""
        self.ioctl(abi.KVM_INTERRUPT, abi.KvmInterrupt(vector))

    def nmi(self) -> None:
        """KVM_NMI (KVM API 4.64)."""
        self.ioctl(abi.KVM_NMI)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ (KVM API 4.56)."""
        return self.ioctl(abi.KVM_GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ (KVM API 4.55)."""
        self.ioctl(abi.KVM_SET_TSC_KHZ, khz)

    def set_signal_mask(self, signals: Iterable[int] | None) -> None:
        """KVM_SET_SIGNAL_MASK: signals blocked inside KVM_RUN; None restores (KVM API 4.17)."""
        if signals is None:
            self.ioctl(abi.KVM_SET_SIGNAL_MASK, 0)
            return
        mask = sum(1 << (number - 1) for number in signals)
        self.ioctl(abi.KVM_SET_SIGNAL_MASK, bytearray(struct.pack("<IQ", 8, mask)))

    def open_stats(self) -> StatsReader:
        """KVM_GET_STATS_FD: the vCPU's statistics. Waits for a KVM_RUN under way, so open it
        before.
        """
        return StatsReader(self)

    def close(self) -> None:
        """Close the descriptor and unmap its pages (Python's mapping has a descriptor too)."""
        self.vm.forget_ring(self.map)
        self._enter = lambda: -errno.EBADF
        self._mmio_data.release()
        self._view.release()
        with contextlib.suppress(BufferError):  # someone keeps an exit's data
            self.map.close()
        super().close()


_INTERRUPTED = exits.Interrupted()
