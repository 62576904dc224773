"""Numbers and layouts of <linux/kvm.h> for x86, as far as kvmish uses them.

Field names are the header's, so that tests/unit/test_abi.py can compile a C program which prints
every size, offset and request number and compare. Anonymous unions appear under the header's
union member that KVM's x86 side uses.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, Union, c_char, c_int16, c_int32, c_int64, sizeof
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64
from enum import IntEnum

API_VERSION = 12
KVMIO = 0xAE

PAGE_SIZE = 4096


class Cap(IntEnum):
    """Arguments of KVM_CHECK_EXTENSION and KVM_ENABLE_CAP."""

    IRQCHIP = 0
    HLT = 1
    USER_MEMORY = 3
    SET_TSS_ADDR = 4
    EXT_CPUID = 7
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    PIT = 11
    MP_STATE = 14
    COALESCED_MMIO = 15
    DESTROY_MEMORY_REGION_WORKS = 21
    SET_GUEST_DEBUG = 23
    IRQ_ROUTING = 25
    IRQ_INJECT_STATUS = 26
    JOIN_MEMORY_REGIONS_WORKS = 30
    MCE = 31
    IRQFD = 32
    PIT2 = 33
    SET_BOOT_CPU_ID = 34
    PIT_STATE2 = 35
    IOEVENTFD = 36
    SET_IDENTITY_MAP_ADDR = 37
    ADJUST_CLOCK = 39
    INTERNAL_ERROR_DATA = 40
    VCPU_EVENTS = 41
    DEBUGREGS = 50
    X86_ROBUST_SINGLESTEP = 51
    XSAVE = 55
    XCRS = 56
    TSC_CONTROL = 60
    GET_TSC_KHZ = 61
    MAX_VCPUS = 66
    TSC_DEADLINE_TIMER = 72
    SYNC_REGS = 74
    KVMCLOCK_CTRL = 76
    SIGNAL_MSI = 77
    READONLY_MEM = 81
    IRQFD_RESAMPLE = 82
    IOEVENTFD_NO_LENGTH = 100
    CHECK_EXTENSION_VM = 105
    DISABLE_QUIRKS = 116
    X86_SMM = 117
    SPLIT_IRQCHIP = 121
    IOEVENTFD_ANY_LENGTH = 122
    MAX_VCPU_ID = 128
    X2APIC_API = 129
    IMMEDIATE_EXIT = 136
    X86_DISABLE_EXITS = 143
    COALESCED_PIO = 162
    X86_USER_SPACE_MSR = 188
    X86_MSR_FILTER = 189
    SET_GUEST_DEBUG2 = 195
    SREGS2 = 200
    EXIT_HYPERCALL = 201
    BINARY_STATS_FD = 203
    XSAVE2 = 208
    DISABLE_QUIRKS2 = 213
    SYSTEM_EVENT_DATA = 215
    X86_TRIPLE_FAULT_EVENT = 218
    X86_NOTIFY_VMEXIT = 219


class Exit(IntEnum):
    """exit_reason of struct kvm_run."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    X86_RDMSR = 29
    X86_WRMSR = 30
    NOTIFY = 37


EXIT_IO_IN = 0
EXIT_IO_OUT = 1

SYSTEM_EVENT_SHUTDOWN = 1
SYSTEM_EVENT_RESET = 2
SYSTEM_EVENT_CRASH = 3

MEM_LOG_DIRTY_PAGES = 1
MEM_READONLY = 2

MP_STATE_RUNNABLE = 0
MP_STATE_UNINITIALIZED = 1
MP_STATE_INIT_RECEIVED = 2
MP_STATE_HALTED = 3
MP_STATE_SIPI_RECEIVED = 4

IRQCHIP_PIC_MASTER = 0
IRQCHIP_PIC_SLAVE = 1
IRQCHIP_IOAPIC = 2

IOEVENTFD_FLAG_DATAMATCH = 1
IOEVENTFD_FLAG_PIO = 2
IOEVENTFD_FLAG_DEASSIGN = 4
IRQFD_FLAG_DEASSIGN = 1
IRQFD_FLAG_RESAMPLE = 2
IRQ_ROUTING_IRQCHIP = 1
IRQ_ROUTING_MSI = 2
CPUID_FLAG_SIGNIFCANT_INDEX = 1
PIT_SPEAKER_DUMMY = 1
COALESCED_MMIO_PAGE_OFFSET = 2

GUESTDBG_ENABLE = 0x1
GUESTDBG_SINGLESTEP = 0x2
GUESTDBG_USE_SW_BP = 0x10000
GUESTDBG_USE_HW_BP = 0x20000

STATS_TYPE_MASK = 0xF
STATS_TYPE_LINEAR_HIST = 3


class KvmRegs(Structure):
    """KVM_GET_REGS, KVM_SET_REGS."""

    _fields_ = [
        (name, u64)
        for name in (
            "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split()  # noqa: SIM905
        )
    ]


class KvmSegment(Structure):
    """A segment register with its hidden part."""

    _fields_ = [
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        ("type", u8),
        ("present", u8),
        ("dpl", u8),
        ("db", u8),
        ("s", u8),
        ("l", u8),
        ("g", u8),
        ("avl", u8),
        ("unusable", u8),
        ("padding", u8),
    ]


class KvmDtable(Structure):
    """GDTR or IDTR."""

    _fields_ = [("base", u64), ("limit", u16), ("padding", u16 * 3)]


_SEGMENTS = [(name, KvmSegment) for name in ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"]]
_TABLES = [("gdt", KvmDtable), ("idt", KvmDtable)]
_CONTROL = [(name, u64) for name in ["cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"]]


class KvmSregs(Structure):
    """KVM_GET_SREGS, KVM_SET_SREGS."""

    _fields_ = [*_SEGMENTS, *_TABLES, *_CONTROL, ("interrupt_bitmap", u64 * 4)]


class KvmSregs2(Structure):
    """KVM_GET_SREGS2, KVM_SET_SREGS2."""

    _fields_ = [*_SEGMENTS, *_TABLES, *_CONTROL, ("flags", u64), ("pdptrs", u64 * 4)]


class KvmFpu(Structure):
    """KVM_GET_FPU, KVM_SET_FPU."""

    _fields_ = [
        ("fpr", (u8 * 16) * 8),
        ("fcw", u16),
        ("fsw", u16),
        ("ftwx", u8),
        ("pad1", u8),
        ("last_opcode", u16),
        ("last_ip", u64),
        ("last_dp", u64),
        ("xmm", (u8 * 16) * 16),
        ("mxcsr", u32),
        ("pad2", u32),
    ]


class KvmLapicState(Structure):
    """The LAPIC's register page, KVM_GET_LAPIC and KVM_SET_LAPIC."""

    _fields_ = [("regs", u8 * 0x400)]


class KvmMsrEntry(Structure):
    """One MSR of KVM_GET_MSRS or KVM_SET_MSRS."""

    _fields_ = [("index", u32), ("reserved", u32), ("data", u64)]


class KvmMsrs(Structure):
    """Head of the list of KVM_GET_MSRS and KVM_SET_MSRS; the entries follow."""

    _fields_ = [("nmsrs", u32), ("pad", u32)]


class KvmMsrList(Structure):
    """Head of the list of KVM_GET_MSR_INDEX_LIST; the indices follow."""

    _fields_ = [("nmsrs", u32)]


class KvmCpuidEntry2(Structure):
    """One CPUID leaf or subleaf."""

    _fields_ = [
        ("function", u32),
        ("index", u32),
        ("flags", u32),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("padding", u32 * 3),
    ]


class KvmCpuid2(Structure):
    """Head of a CPUID list; the entries follow."""

    _fields_ = [("nent", u32), ("padding", u32)]


class KvmUserspaceMemoryRegion(Structure):
    """KVM_SET_USER_MEMORY_REGION: bytes, page-aligned."""

    _fields_ = [
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
    ]


class KvmPitConfig(Structure):
    """KVM_CREATE_PIT2."""

    _fields_ = [("flags", u32), ("pad", u32 * 15)]


class KvmPitChannelState(Structure):
    """One channel of the 8254."""

    _fields_ = [
        ("count", u32),
        ("latched_count", u16),
        ("count_latched", u8),
        ("status_latched", u8),
        ("status", u8),
        ("read_state", u8),
        ("write_state", u8),
        ("write_latch", u8),
        ("rw_mode", u8),
        ("mode", u8),
        ("bcd", u8),
        ("gate", u8),
        ("count_load_time", c_int64),
    ]


class KvmPitState2(Structure):
    """KVM_GET_PIT2, KVM_SET_PIT2."""

    _fields_ = [("channels", KvmPitChannelState * 3), ("flags", u32), ("reserved", u32 * 9)]


class KvmIrqLevel(Structure):
    """KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS (which answers in irq)."""

    _fields_ = [("irq", u32), ("level", u32)]


class KvmIrqchip(Structure):
    """KVM_GET_IRQCHIP, KVM_SET_IRQCHIP."""

    _fields_ = [("chip_id", u32), ("pad", u32), ("chip", u8 * 512)]


class KvmIrqfd(Structure):
    """KVM_IRQFD."""

    _fields_ = [("fd", u32), ("gsi", u32), ("flags", u32), ("resamplefd", u32), ("pad", u8 * 16)]


class KvmIoeventfd(Structure):
    """KVM_IOEVENTFD."""

    _fields_ = [
        ("datamatch", u64),
        ("addr", u64),
        ("len", u32),
        ("fd", c_int32),
        ("flags", u32),
        ("pad", u8 * 36),
    ]


class KvmClockData(Structure):
    """KVM_GET_CLOCK, KVM_SET_CLOCK; nanoseconds."""

    _fields_ = [
        ("clock", u64),
        ("flags", u32),
        ("pad0", u32),
        ("realtime", u64),
        ("host_tsc", u64),
        ("pad", u32 * 4),
    ]


class KvmMsi(Structure):
    """KVM_SIGNAL_MSI."""

    _fields_ = [
        ("address_lo", u32),
        ("address_hi", u32),
        ("data", u32),
        ("flags", u32),
        ("devid", u32),
        ("pad", u8 * 12),
    ]


class KvmIrqRoutingIrqchip(Structure):
    """A route to a pin of a chip."""

    _fields_ = [("irqchip", u32), ("pin", u32)]


class KvmIrqRoutingMsi(Structure):
    """A route to a message."""

    _fields_ = [("address_lo", u32), ("address_hi", u32), ("data", u32), ("devid", u32)]


class KvmIrqRoute(Union):
    """The variants of a routing entry."""

    _fields_ = [("irqchip", KvmIrqRoutingIrqchip), ("msi", KvmIrqRoutingMsi), ("pad", u32 * 8)]


class KvmIrqRoutingEntry(Structure):
    """One entry of KVM_SET_GSI_ROUTING."""

    _fields_ = [("gsi", u32), ("type", u32), ("flags", u32), ("pad", u32), ("u", KvmIrqRoute)]


class KvmIrqRouting(Structure):
    """Head of the table of KVM_SET_GSI_ROUTING; the entries follow."""

    _fields_ = [("nr", u32), ("flags", u32)]


class KvmCoalescedMmioZone(Structure):
    """KVM_REGISTER_COALESCED_MMIO; pio is 1 for ports."""

    _fields_ = [("addr", u64), ("size", u32), ("pio", u32)]


class KvmCoalescedMmio(Structure):
    """One entry of the coalesced ring."""

    _fields_ = [("phys_addr", u64), ("len", u32), ("pio", u32), ("data", u8 * 8)]


class KvmCoalescedMmioRing(Structure):
    """Head of the coalesced ring, which fills one page."""

    _fields_ = [("first", u32), ("last", u32)]


class KvmTranslation(Structure):
    """KVM_TRANSLATE."""

    _fields_ = [
        ("linear_address", u64),
        ("physical_address", u64),
        ("valid", u8),
        ("writeable", u8),
        ("usermode", u8),
        ("pad", u8 * 5),
    ]


class KvmInterrupt(Structure):
    """KVM_INTERRUPT."""

    _fields_ = [("irq", u32)]


class KvmDirtyLog(Structure):
    """KVM_GET_DIRTY_LOG; padding2 holds the address of the bitmap."""

    _fields_ = [("slot", u32), ("padding1", u32), ("padding2", u64)]


class KvmClearDirtyLog(Structure):
    """KVM_CLEAR_DIRTY_LOG."""

    _fields_ = [("slot", u32), ("num_pages", u32), ("first_page", u64), ("padding2", u64)]


class KvmSignalMask(Structure):
    """Head of KVM_SET_SIGNAL_MASK; the set follows."""

    _fields_ = [("len", u32)]


class KvmMpState(Structure):
    """KVM_GET_MP_STATE, KVM_SET_MP_STATE."""

    _fields_ = [("mp_state", u32)]


class KvmGuestDebug(Structure):
    """KVM_SET_GUEST_DEBUG; arch is debugreg[8]."""

    _fields_ = [("control", u32), ("pad", u32), ("arch", u64 * 8)]


class KvmEnableCap(Structure):
    """KVM_ENABLE_CAP."""

    _fields_ = [("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)]


class KvmDeviceAttr(Structure):
    """KVM_GET_DEVICE_ATTR."""

    _fields_ = [("flags", u32), ("group", u32), ("attr", u64), ("addr", u64)]


class KvmTprAccessCtl(Structure):
    """KVM_TPR_ACCESS_REPORTING."""

    _fields_ = [("enabled", u32), ("flags", u32), ("reserved", u32 * 8)]


class KvmVapicAddr(Structure):
    """KVM_SET_VAPIC_ADDR."""

    _fields_ = [("vapic_addr", u64)]


class _EventException(Structure):
    _fields_ = [
        ("injected", u8),
        ("nr", u8),
        ("has_error_code", u8),
        ("pending", u8),
        ("error_code", u32),
    ]


class _EventInterrupt(Structure):
    _fields_ = [("injected", u8), ("nr", u8), ("soft", u8), ("shadow", u8)]


class _EventNmi(Structure):
    _fields_ = [("injected", u8), ("pending", u8), ("masked", u8), ("pad", u8)]


class _EventSmi(Structure):
    _fields_ = [("smm", u8), ("pending", u8), ("smm_inside_nmi", u8), ("latched_init", u8)]


class _EventTripleFault(Structure):
    _fields_ = [("pending", u8)]


class KvmVcpuEvents(Structure):
    """KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS."""

    _fields_ = [
        ("exception", _EventException),
        ("interrupt", _EventInterrupt),
        ("nmi", _EventNmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", _EventSmi),
        ("triple_fault", _EventTripleFault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    ]


class KvmDebugregs(Structure):
    """KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS."""

    _fields_ = [
        ("db", u64 * 4),
        ("dr6", u64),
        ("dr7", u64),
        ("flags", u64),
        ("reserved", u64 * 9),
    ]


class KvmXsave(Structure):
    """KVM_GET_XSAVE, KVM_SET_XSAVE: the standard XSAVE image."""

    _fields_ = [("region", u32 * 1024)]


class KvmXcr(Structure):
    """One extended control register."""

    _fields_ = [("xcr", u32), ("reserved", u32), ("value", u64)]


class KvmXcrs(Structure):
    """KVM_GET_XCRS, KVM_SET_XCRS."""

    _fields_ = [("nr_xcrs", u32), ("flags", u32), ("xcrs", KvmXcr * 16), ("padding", u64 * 16)]


class KvmStatsHeader(Structure):
    """First bytes of a binary stats file (KVM API 4.133)."""

    _fields_ = [
        ("flags", u32),
        ("name_size", u32),
        ("num_desc", u32),
        ("id_offset", u32),
        ("desc_offset", u32),
        ("data_offset", u32),
    ]


class KvmStatsDesc(Structure):
    """One descriptor of a binary stats file; the name follows."""

    _fields_ = [
        ("flags", u32),
        ("exponent", c_int16),
        ("size", u16),
        ("offset", u32),
        ("bucket_size", u32),
    ]


class _RunIo(Structure):
    _fields_ = [
        ("direction", u8),
        ("size", u8),
        ("port", u16),
        ("count", u32),
        ("data_offset", u64),
    ]


class _RunMmio(Structure):
    _fields_ = [("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8)]


class _RunFailEntry(Structure):
    _fields_ = [("hardware_entry_failure_reason", u64), ("cpu", u32)]


class _RunDebug(Structure):
    _fields_ = [("exception", u32), ("pad", u32), ("pc", u64), ("dr6", u64), ("dr7", u64)]


class _RunInternal(Structure):
    _fields_ = [("suberror", u32), ("ndata", u32), ("data", u64 * 16)]


class _RunSystemEvent(Structure):
    _fields_ = [("type", u32), ("ndata", u32), ("data", u64 * 16)]


class _RunHypercall(Structure):
    _fields_ = [
        ("nr", u64),
        ("args", u64 * 6),
        ("ret", u64),
        ("longmode", u32),
        ("pad", u32),
    ]


class _RunMsr(Structure):
    _fields_ = [
        ("error", u8),
        ("pad", u8 * 7),
        ("reason", u32),
        ("index", u32),
        ("data", u64),
    ]


class _RunEoi(Structure):
    _fields_ = [("vector", u8)]


class _RunHw(Structure):
    _fields_ = [("hardware_exit_reason", u64)]


class _RunExit(Union):
    _fields_ = [
        ("hw", _RunHw),
        ("fail_entry", _RunFailEntry),
        ("io", _RunIo),
        ("debug", _RunDebug),
        ("mmio", _RunMmio),
        ("hypercall", _RunHypercall),
        ("internal", _RunInternal),
        ("system_event", _RunSystemEvent),
        ("eoi", _RunEoi),
        ("msr", _RunMsr),
        ("padding", c_char * 256),
    ]


class KvmSyncRegs(Structure):
    """What KVM_CAP_SYNC_REGS keeps in struct kvm_run."""

    _fields_ = [("regs", KvmRegs), ("sregs", KvmSregs), ("events", KvmVcpuEvents)]


class KvmRun(Structure):
    """The page a vCPU shares with its VMM, mapped from the vCPU descriptor."""

    _anonymous_ = ("exit",)
    _fields_ = [
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("exit", _RunExit),
        ("kvm_valid_regs", u64),
        ("kvm_dirty_regs", u64),
        ("s", u8 * 2048),
    ]


def _io(number: int) -> int:
    return KVMIO << 8 | number


def _ior(number: int, what: type[ctypes._SimpleCData[int]] | type[Structure]) -> int:
    return 2 << 30 | sizeof(what) << 16 | _io(number)


def _iow(number: int, what: type[ctypes._SimpleCData[int]] | type[Structure]) -> int:
    return 1 << 30 | sizeof(what) << 16 | _io(number)


def _iowr(number: int, what: type[ctypes._SimpleCData[int]] | type[Structure]) -> int:
    return 3 << 30 | sizeof(what) << 16 | _io(number)


# On /dev/kvm.
KVM_GET_API_VERSION = _io(0x00)
KVM_CREATE_VM = _io(0x01)
KVM_GET_MSR_INDEX_LIST = _iowr(0x02, KvmMsrList)
KVM_CHECK_EXTENSION = _io(0x03)
KVM_GET_VCPU_MMAP_SIZE = _io(0x04)
KVM_GET_SUPPORTED_CPUID = _iowr(0x05, KvmCpuid2)
KVM_GET_EMULATED_CPUID = _iowr(0x09, KvmCpuid2)
KVM_GET_MSR_FEATURE_INDEX_LIST = _iowr(0x0A, KvmMsrList)
KVM_X86_GET_MCE_CAP_SUPPORTED = _ior(0x9D, u64)

# On a VM.
KVM_CREATE_VCPU = _io(0x41)
KVM_GET_DIRTY_LOG = _iow(0x42, KvmDirtyLog)
KVM_SET_USER_MEMORY_REGION = _iow(0x46, KvmUserspaceMemoryRegion)
KVM_SET_TSS_ADDR = _io(0x47)
KVM_SET_IDENTITY_MAP_ADDR = _iow(0x48, u64)
KVM_CREATE_IRQCHIP = _io(0x60)
KVM_IRQ_LINE = _iow(0x61, KvmIrqLevel)
KVM_GET_IRQCHIP = _iowr(0x62, KvmIrqchip)
KVM_SET_IRQCHIP = _ior(0x63, KvmIrqchip)
KVM_IRQ_LINE_STATUS = _iowr(0x67, KvmIrqLevel)
KVM_REGISTER_COALESCED_MMIO = _iow(0x67, KvmCoalescedMmioZone)
KVM_UNREGISTER_COALESCED_MMIO = _iow(0x68, KvmCoalescedMmioZone)
KVM_SET_GSI_ROUTING = _iow(0x6A, KvmIrqRouting)
KVM_REINJECT_CONTROL = _io(0x71)
KVM_IRQFD = _iow(0x76, KvmIrqfd)
KVM_CREATE_PIT2 = _iow(0x77, KvmPitConfig)
KVM_SET_BOOT_CPU_ID = _io(0x78)
KVM_IOEVENTFD = _iow(0x79, KvmIoeventfd)
KVM_SET_CLOCK = _iow(0x7B, KvmClockData)
KVM_GET_CLOCK = _ior(0x7C, KvmClockData)
KVM_GET_PIT2 = _ior(0x9F, KvmPitState2)
KVM_SET_PIT2 = _iow(0xA0, KvmPitState2)
KVM_ENABLE_CAP = _iow(0xA3, KvmEnableCap)
KVM_SIGNAL_MSI = _iow(0xA5, KvmMsi)
KVM_CLEAR_DIRTY_LOG = _iowr(0xC0, KvmClearDirtyLog)

# On a vCPU.
KVM_RUN = _io(0x80)
KVM_GET_REGS = _ior(0x81, KvmRegs)
KVM_SET_REGS = _iow(0x82, KvmRegs)
KVM_GET_SREGS = _ior(0x83, KvmSregs)
KVM_SET_SREGS = _iow(0x84, KvmSregs)
KVM_TRANSLATE = _iowr(0x85, KvmTranslation)
KVM_INTERRUPT = _iow(0x86, KvmInterrupt)
KVM_GET_MSRS = _iowr(0x88, KvmMsrs)
KVM_SET_MSRS = _iow(0x89, KvmMsrs)
KVM_SET_SIGNAL_MASK = _iow(0x8B, KvmSignalMask)
KVM_GET_FPU = _ior(0x8C, KvmFpu)
KVM_SET_FPU = _iow(0x8D, KvmFpu)
KVM_GET_LAPIC = _ior(0x8E, KvmLapicState)
KVM_SET_LAPIC = _iow(0x8F, KvmLapicState)
KVM_SET_CPUID2 = _iow(0x90, KvmCpuid2)
KVM_GET_CPUID2 = _iowr(0x91, KvmCpuid2)
KVM_TPR_ACCESS_REPORTING = _iowr(0x92, KvmTprAccessCtl)
KVM_SET_VAPIC_ADDR = _iow(0x93, KvmVapicAddr)
KVM_GET_MP_STATE = _ior(0x98, KvmMpState)
KVM_SET_MP_STATE = _iow(0x99, KvmMpState)
KVM_NMI = _io(0x9A)
KVM_SET_GUEST_DEBUG = _iow(0x9B, KvmGuestDebug)
KVM_X86_SETUP_MCE = _iow(0x9C, u64)
KVM_GET_VCPU_EVENTS = _ior(0x9F, KvmVcpuEvents)
KVM_SET_VCPU_EVENTS = _iow(0xA0, KvmVcpuEvents)
KVM_GET_DEBUGREGS = _ior(0xA1, KvmDebugregs)
KVM_SET_DEBUGREGS = _iow(0xA2, KvmDebugregs)
KVM_SET_TSC_KHZ = _io(0xA2)
KVM_GET_TSC_KHZ = _io(0xA3)
KVM_GET_XSAVE = _ior(0xA4, KvmXsave)
KVM_SET_XSAVE = _iow(0xA5, KvmXsave)
KVM_GET_XCRS = _ior(0xA6, KvmXcrs)
KVM_SET_XCRS = _iow(0xA7, KvmXcrs)
KVM_KVMCLOCK_CTRL = _io(0xAD)
KVM_GET_XSAVE2 = _ior(0xCF, KvmXsave)
KVM_GET_SREGS2 = _ior(0xCC, KvmSregs2)
KVM_SET_SREGS2 = _iow(0xCD, KvmSregs2)
KVM_GET_STATS_FD = _io(0xCE)
KVM_GET_DEVICE_ATTR = _iow(0xE2, KvmDeviceAttr)
