"""What kvmish's KVM ABI leaves out or answers otherwise than Linux's on x86, each with its reason.

docs/abi.md shows the tables; tests/abi/test_contract.py accepts these differences and no others.
"""

from __future__ import annotations

_HYPERV = "HYPERV_*: no Hyper-V interface; Linux too can be built without it"
_YOUNGER = "younger than our baseline, Linux 6.1"
_GONE = "gone from Linux too"
_NO_ENCRYPTION = "no encrypted guests"

# KVM_CAP_ number (of the capabilities that Linux 6.1 knows) -> reason.
CAPABILITIES = {
    6: "VAPIC: no exits for TPR accesses, which help processors without a TPR shadow; the virtual "
    "APIC word itself is kept",
    38: "XEN_HVM: no Xen hypercall interface",
    **dict.fromkeys(
        (44, 45, 46, 96, 123, 148, 149, 154, 155, 161, 163, 167, 175, 191, 199), _HYPERV
    ),
    47: "PCI_SEGMENT serves device assignment, which needs hardware",
    60: "TSC_CONTROL: the guest's TSC has the host's rate; nothing scales it",
    70: f"ONE_REG: {_YOUNGER}",
    89: "DEVICE_CTRL: no KVM devices without VFIO",
    117: "X86_SMM: no system management mode",
    129: "X2APIC_API: the flags for suppressed EOI broadcasts are younger than our baseline",
    143: "X86_DISABLE_EXITS: MWAIT in the guest depends on the host's hardware",
    157: "NESTED_STATE: no nested virtualization",
    173: "PMU_EVENT_FILTER: no PMU",
    182: "HALT_POLL: no halt polling to tune",
    185: "SMALLER_MAXPHYADDR: no second level of paging whose width could differ",
    192: "DIRTY_LOG_RING: the bitmap only",
    193: "X86_BUS_LOCK_EXIT: needs hardware that counts",
    195: "SET_GUEST_DEBUG2: the host's follows its hardware",
    196: "SGX_ATTRIBUTE: no SGX",
    197: f"VM_COPY_ENC_CONTEXT_FROM: {_NO_ENCRYPTION}",
    206: f"VM_MOVE_ENC_CONTEXT_FROM: {_NO_ENCRYPTION}",
    208: "XSAVE2: follows the XSAVE components of the host",
    212: "PMU_CAPABILITY: no PMU",
    213: "DISABLE_QUIRKS2: quirks of hardware virtualization do not exist",
    214: "VM_TSC_CONTROL: see TSC_CONTROL",
    219: "X86_NOTIFY_VMEXIT: needs hardware that watches",
    220: "VM_DISABLE_NX_HUGE_PAGES: there are none to disable",
    223: "DIRTY_LOG_RING_ACQ_REL: the bitmap only",
}
LAST_CAPABILITY = 225  # in the <linux/kvm.h> of Linux 6.1

# Requests that are answered, but not as Linux does: name -> how and why.
REQUESTS = {
    "KVM_SMI": "EINVAL: no system management mode",
    "KVM_TRACE_ENABLE": "EOPNOTSUPP, as in Linux",
    "KVM_TRACE_PAUSE": "EOPNOTSUPP, as in Linux",
    "KVM_TRACE_DISABLE": "EOPNOTSUPP, as in Linux",
    "KVM_CREATE_DEVICE": "ENODEV for every type: there is no VFIO",
    "KVM_TPR_ACCESS_REPORTING": "accepted; no access is reported, as where hardware has a TPR "
    "shadow",
    "KVM_SET_TSC_KHZ": "only the host's rate, within 250 ppm: nothing scales the TSC",
    "KVM_SET_NR_MMU_PAGES": "accepted; there is no shadow MMU to limit",
    "KVM_SET_TSS_ADDR": "accepted; real mode needs no TSS of the host's",
    "KVM_SET_IDENTITY_MAP_ADDR": "accepted; real mode needs no identity map",
}

# Exit reasons of x86 that no guest causes here -> why.
EXITS_NEVER = {
    "KVM_EXIT_FAIL_ENTRY": "every state that the SET calls accept can be entered",
    "KVM_EXIT_UNKNOWN": "only hardware has unknown reasons",
    "KVM_EXIT_EXCEPTION": "not used by Linux any more",
    "KVM_EXIT_TPR_ACCESS": "see KVM_CAP_VAPIC",
    "KVM_EXIT_SYSTEM_EVENT": "on x86 only Hyper-V guests cause it",
    "KVM_EXIT_HYPERV": "no Hyper-V interface",
    "KVM_EXIT_XEN": "no Xen hypercall interface",
    "KVM_EXIT_DIRTY_RING_FULL": "no dirty ring",
    "KVM_EXIT_X86_BUS_LOCK": "see KVM_CAP_X86_BUS_LOCK_EXIT",
    "KVM_EXIT_NOTIFY": "see KVM_CAP_X86_NOTIFY_VMEXIT",
    "KVM_EXIT_NMI": "not used by Linux on x86",
    "KVM_EXIT_WATCHDOG": "PowerPC only",
}

# Requests of Linux on x86 that are refused as unknown -> why.
ABSENT = {
    "KVM_GET_NESTED_STATE": "no nested virtualization",
    "KVM_SET_NESTED_STATE": "no nested virtualization",
    "KVM_HYPERV_EVENTFD": "no Hyper-V interface",
    "KVM_GET_SUPPORTED_HV_CPUID": "no Hyper-V interface",
    "KVM_XEN_HVM_CONFIG": "no Xen hypercall interface",
    "KVM_XEN_HVM_SET_ATTR": "no Xen hypercall interface",
    "KVM_XEN_HVM_GET_ATTR": "no Xen hypercall interface",
    "KVM_XEN_VCPU_SET_ATTR": "no Xen hypercall interface",
    "KVM_XEN_VCPU_GET_ATTR": "no Xen hypercall interface",
    "KVM_XEN_HVM_EVTCHN_SEND": "no Xen hypercall interface",
    "KVM_MEMORY_ENCRYPT_OP": "no encrypted guests",
    "KVM_MEMORY_ENCRYPT_REG_REGION": "no encrypted guests",
    "KVM_MEMORY_ENCRYPT_UNREG_REGION": "no encrypted guests",
    "KVM_SET_PMU_EVENT_FILTER": "no PMU",
    "KVM_RESET_DIRTY_RINGS": "no dirty ring",
    "KVM_GET_ONE_REG": f"{_YOUNGER} on x86",
    "KVM_SET_ONE_REG": f"{_YOUNGER} on x86",
    "KVM_GET_REG_LIST": f"{_YOUNGER} on x86",
    "KVM_PRE_FAULT_MEMORY": _YOUNGER,
    "KVM_SET_MEMORY_ATTRIBUTES": _YOUNGER,
    "KVM_CREATE_GUEST_MEMFD": _YOUNGER,
    "KVM_SET_MEMORY_REGION": _GONE,
    "KVM_SET_MEMORY_ALIAS": _GONE,
    "KVM_ASSIGN_PCI_DEVICE": _GONE,
    "KVM_ASSIGN_DEV_IRQ": _GONE,
    "KVM_DEASSIGN_PCI_DEVICE": _GONE,
    "KVM_DEASSIGN_DEV_IRQ": _GONE,
    "KVM_ASSIGN_SET_MSIX_NR": _GONE,
    "KVM_ASSIGN_SET_MSIX_ENTRY": _GONE,
    "KVM_ASSIGN_SET_INTX_MASK": _GONE,
    "KVM_GET_NR_MMU_PAGES": "deprecated; there is no shadow MMU",
}

# Everything else that a client or a guest can tell apart.
BEHAVIOUR = (
    (
        "Asynchronous page faults",
        "can be turned on, also without a LAPIC of KVM's, and never come: guest memory is never "
        "paged out by us.",
    ),
    (
        "KVM_GET_DIRTY_LOG",
        "tells what was written. Linux tells, too, each page that the guest read first: it maps "
        "such a page writable, and marks it then.",
    ),
    (
        "Instructions",
        "are all emulated. KVM_EXIT_INTERNAL_ERROR comes of fetching code where no memory is, and "
        "of an instruction that needs more than 64 accesses to devices.",
    ),
    (
        "Code that the client writes",
        "where code of the guest's has run is seen by each KVM_RUN that is called afterwards, and "
        "when a vCPU looks its page up anew: after MOV to CR3, a change of CR0.PG, PE or WP or of "
        "what CR4 says of paging, INVLPG and INVPCID of it. What another thread of the client "
        "writes while the vCPU is in KVM_RUN is otherwise not seen before it comes out: an "
        "interrupt or an ioeventfd is no such moment. What vCPUs write is seen at once.",
    ),
    (
        "MMIO",
        "is done by any instruction, also by those that Linux's emulator refuses (x87, AVX ...).",
    ),
    (
        "Signals",
        "In process (`--door preload`, the Python API) KVM_RUN returns EINTR for each signal that "
        "the client handles, as Linux does, by wrapping its handlers. What is different behind the "
        "other doors: [exec.md](howto/exec.md), [devfs.md](howto/devfs.md).",
    ),
    (
        "Descriptors",
        "are of other kinds of files than Linux's: what `/proc/self/fd` shows, and what read, poll "
        "and the like say of them, is in [exec.md](howto/exec.md) and "
        "[devfs.md](howto/devfs.md). Those of the Python API are the ones of `--door preload`, "
        "and fstat() says so. Statistics are a memfd.",
    ),
    (
        "KVM_GET_SUPPORTED_CPUID",
        "offers what the interpreter executes (UMIP, LA57, PKU, PKS, INVPCID, SMAP ...) whether or "
        "not the host has it, and the host's vector extensions up to AVX2. No AVX-512, AMX, CET, "
        "TSX, VMX, SVM, PMU.",
    ),
    (
        "CPUID leaf 0xD",
        "is the layout of our XSAVE area in any case. A client whose own leaf places PKRU "
        "elsewhere does not load it by KVM_SET_XSAVE: "
        "[decision 010](decisions/010-pkru-needs-no-host.md).",
    ),
    (
        "IA32_ARCH_CAPABILITIES and its AMD counterparts",
        "say what an emulated processor is not affected by: [security.md](security.md).",
    ),
    (
        "Page tables in a READONLY slot",
        "are walked; their accessed and dirty flags stay as they are.",
    ),
    (
        "Steal time",
        "is brought up to date at most every 200 us, not by every KVM_RUN. Behind `--door seccomp` "
        "it is that of the door's thread, without what the client's waits for between two calls; "
        "behind the device file there is none.",
    ),
    (
        "KVM_IRQFD",
        "takes an eventfd for one machine only: EBUSY for a second, in another process too, as in "
        "Linux since 6.17. Before that both machines got each event.",
    ),
    (
        "REP INS and REP OUTS",
        "exit once for as many elements as lie in a page; in Linux, REP INS once for each 1 KiB, "
        "REP OUTS once for each element.",
    ),
)
