"""The board `microvm`: serial, clock, ACPI power, virtio-mmio; an empty PCI bus, no firmware.

RAM lies from 0 to 3 GiB and, beyond that, from 4 GiB on. Each virtio device has a page below the
IOAPIC and an ISA interrupt while these last, so that a kernel without ACPI can be told of it on
its command line (`virtio_mmio.device=4K@0xfeb00000:5`).
"""

from __future__ import annotations

import os
import threading

from kvm_core.abi import Cap
from kvm_core.errors import ConfigError
from vmmuser.acpi import aml, tables
from vmmuser.block.raw import RawImage
from vmmuser.board.base import KvmIrq, Platform
from vmmuser.boot import linux, pvh
from vmmuser.boot.payload import (
    E820_RAM,
    E820_RESERVED,
    Entry,
    MemoryMap,
    Payload,
)
from vmmuser.device import Device
from vmmuser.devices.i8042 import I8042
from vmmuser.devices.pci import RESET, RESET_VALUE, HostBridge
from vmmuser.devices.power import SLP_TYP_S5, AcpiPm1
from vmmuser.devices.pvpanic import PvPanic
from vmmuser.devices.rtc import CENTURY, Rtc
from vmmuser.devices.serial import IER, LSR, Serial
from vmmuser.virtio.base import VirtioDevice
from vmmuser.virtio.blk import Counters, VirtioBlk
from vmmuser.virtio.console import VirtioConsole
from vmmuser.virtio.mmio import QUEUE_NOTIFY, SIZE, VirtioMmio
from vmmuser.virtio.rng import VirtioRng

GIB, MIB = 1 << 30, 1 << 20
LOW_LIMIT, HIGH_BASE = 3 * GIB, 4 * GIB

COM1, COM1_IRQ = 0x3F8, 4
RTC_PORT, RTC_IRQ = 0x70, 8
KEYBOARD_DATA, KEYBOARD_COMMAND = 0x60, 0x64
PM1_PORT, SCI_IRQ = 0x600, 9
PCI_PORT = 0xCF8
PANIC_PORT = 0x505
VIRTIO_BASE, VIRTIO_STEP = 0xFEB00000, 0x1000
VIRTIO_GSIS = (5, 10, 11, 12, 6, 7, 14, 15, 3, *range(16, 24))

EBDA, VGA_HOLE, ACPI_TABLES, BIOS_END = 0x9FC00, 0xA0000, 0xE0000, 0x100000
# Pages for Intel hosts' real mode (KVM_SET_TSS_ADDR and the identity map); guests never see them.
IDENTITY_MAP, TSS = 0xFFFBC000, 0xFFFBD000

LEVEL_ACTIVE_HIGH = 0x0D  # MPS INTI flags


def ram_ranges(mib: int) -> list[tuple[int, int]]:
    """Where `mib` MiB of RAM lie: (address, size)."""
    size = mib * MIB
    if size <= LOW_LIMIT:
        return [(0, size)]
    return [(0, LOW_LIMIT), (HIGH_BASE, size - LOW_LIMIT)]


def memory_map(mib: int) -> MemoryMap:
    """What a kernel is told of memory."""
    ranges = ram_ranges(mib)
    low = ranges[0][1]
    e820 = [
        (0, EBDA, E820_RAM),
        (EBDA, VGA_HOLE - EBDA, E820_RESERVED),
        (ACPI_TABLES, BIOS_END - ACPI_TABLES, E820_RESERVED),
        (BIOS_END, low - BIOS_END, E820_RAM),
    ]
    e820 += [(base, size, E820_RAM) for base, size in ranges[1:]]
    return MemoryMap(e820, low)


class VirtioSlot:
    """A virtio device with its notification eventfd and, if it blocks, its thread."""

    def __init__(self, platform: Platform, device: VirtioDevice, index: int) -> None:
        """Place it at slot `index`."""
        self._platform = platform
        self.base = VIRTIO_BASE + VIRTIO_STEP * index
        self.gsi = VIRTIO_GSIS[index]
        self.transport = VirtioMmio(device, platform.memory, KvmIrq(platform.vm, self.gsi))
        platform.bus.attach(self.transport, mmio=self.base)
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC)
        self.transport.on_kick = self._kick
        if platform.vm.check_extension(Cap.IOEVENTFD):
            # Any queue's notification does: serving looks at all of them.
            platform.vm.ioeventfd(self._eventfd, self.base + QUEUE_NOTIFY, 4)
        self._stopping = False
        self._thread: threading.Thread | None = None

    def _kick(self) -> None:
        os.eventfd_write(self._eventfd, 1)

    def start(self) -> None:
        """Serve notifications: on the event loop, or on a thread of its own."""
        if self.transport.device.threaded:
            self._thread = threading.Thread(target=self._serve_thread, name="disk", daemon=True)
            self._thread.start()
        else:
            self._platform.loop.add_reader(self._eventfd, self._ready)

    def _ready(self) -> None:
        os.eventfd_read(self._eventfd)
        with self._platform.turn():
            self.transport.serve()

    def _serve_thread(self) -> None:
        try:
            while True:
                os.eventfd_read(self._eventfd)
                if self._stopping:
                    return
                with self._platform.turn():
                    self.transport.serve()
        except Exception as error:
            self._platform.loop.soon(self._thread_failed, error)

    def _thread_failed(self, error: Exception) -> None:
        """Fail on the loop's thread, which ends the machine with a word about it."""
        raise error

    def stop(self) -> None:
        """Stop serving; what is under way is finished."""
        self._stopping = True
        if self._thread is not None:
            self._kick()
            self._thread.join()
        else:
            self._platform.loop.remove_reader(self._eventfd)
        os.close(self._eventfd)


class MicroVm:
    """See the module."""

    name = "microvm"
    mmio_hole = (LOW_LIMIT, HIGH_BASE - LOW_LIMIT)
    coalesced_ports = (COM1,)

    def __init__(self, platform: Platform) -> None:
        """Build all devices. :raise ConfigError: if a disk cannot be used or there are too many."""
        self._platform = platform
        consoles = platform.consoles
        self._hvc = VirtioConsole(consoles["virtio"]) if "virtio" in consoles else None
        vm, bus, clock = platform.vm, platform.bus, platform.loop
        answers = vm.standing.at(COM1 + LSR), vm.standing.at(COM1 + IER)
        sink = consoles.get("serial", _Nowhere())
        self.serial = Serial(KvmIrq(vm, COM1_IRQ), sink, *answers)
        bus.attach(self.serial, pio=COM1)
        self.rtc = Rtc(KvmIrq(vm, RTC_IRQ), clock, _cmos(platform.config.memory_mib))
        bus.attach(self.rtc, pio=RTC_PORT)
        keyboard = I8042(platform.reset)
        bus.attach(keyboard, pio=(KEYBOARD_DATA, KEYBOARD_COMMAND))
        self.power = AcpiPm1(KvmIrq(vm, SCI_IRQ), platform.power_off)
        bus.attach(self.power, pio=PM1_PORT)
        bridge = HostBridge(platform.reset)
        bus.attach(bridge, pio=PCI_PORT)
        panic = PvPanic(lambda: platform.panicked(False), lambda: platform.panicked(True))
        bus.attach(panic, pio=PANIC_PORT)
        self.devices: dict[str, Device] = {
            "serial": self.serial,
            "rtc": self.rtc,
            "i8042": keyboard,
            "power": self.power,
            "pci": bridge,
            "pvpanic": panic,
        }
        self.images: list[RawImage] = []
        self.disk_counters: list[Counters] = []
        self.slots: list[VirtioSlot] = []
        try:
            self._attach_virtio()
        except BaseException:
            self.stop()
            raise

    def _attach_virtio(self) -> None:
        config = self._platform.config
        room = len(VIRTIO_GSIS) - 2
        if len(config.disks) > room:
            raise ConfigError(f"--disk: {len(config.disks)} disks; this board has room for {room}")
        for disk in config.disks:
            self.images.append(RawImage(disk.path, disk.read_only))
        devices: list[tuple[str, VirtioDevice]] = []
        for index, (disk, image) in enumerate(zip(config.disks, self.images, strict=True)):
            block = VirtioBlk(image, disk.serial or f"kvmish-{index}")
            self.disk_counters.append(block.counters)
            devices.append((f"disk{index}", block))
        devices.append(("rng", VirtioRng()))
        if self._hvc is not None:
            devices.append(("console", self._hvc))
        for index, (name, device) in enumerate(devices):
            slot = VirtioSlot(self._platform, device, index)
            self.slots.append(slot)
            self.devices[name] = slot.transport

    # -- tables and boot ----------------------------------------------------------------------

    def dsdt(self) -> bytes:
        """The AML of the devices that a kernel cannot find by itself."""
        devices = [
            aml.device(
                "COM1",
                aml.name("_HID", aml.eisa_id("PNP0501")),
                aml.name("_UID", aml.integer(1)),
                aml.name(
                    "_CRS",
                    aml.resource_template(aml.io_port(COM1, 8), aml.irq_no_flags(COM1_IRQ)),
                ),
            ),
            aml.device(
                "RTC",
                aml.name("_HID", aml.eisa_id("PNP0B00")),
                aml.name(
                    "_CRS",
                    aml.resource_template(aml.io_port(RTC_PORT, 2), aml.irq_no_flags(RTC_IRQ)),
                ),
            ),
            aml.device(
                "PEVT",
                aml.name("_HID", aml.string("QEMU0001")),
                aml.name("_CRS", aml.resource_template(aml.io_port(PANIC_PORT, 1))),
            ),
        ]
        for index, slot in enumerate(self.slots):
            resources = aml.resource_template(
                aml.memory32_fixed(slot.base, SIZE), aml.interrupt_edge(slot.gsi)
            )
            devices.append(
                aml.device(
                    f"VR{index:02}",
                    aml.name("_HID", aml.string("LNRO0005")),
                    aml.name("_UID", aml.integer(index)),
                    aml.name("_CCA", aml.integer(1)),
                    aml.name("_CRS", resources),
                )
            )
        s5 = aml.package(*(aml.integer(value) for value in (SLP_TYP_S5, 0, 0, 0)))
        return aml.scope("_SB", *devices) + aml.name("_S5", s5)

    def acpi(self) -> tables.Placed:
        """All tables, at their place."""
        fixed = tables.Fixed(
            sci=SCI_IRQ,
            pm1_event=PM1_PORT,
            pm1_control=PM1_PORT + 4,
            reset_port=PCI_PORT + RESET,
            reset_value=RESET_VALUE,
            century=CENTURY,
        )
        interrupts = tables.Interrupts(
            apic_ids=list(range(self._platform.config.vcpus)),
            overrides=[(SCI_IRQ, SCI_IRQ, LEVEL_ACTIVE_HIGH)],
        )
        return tables.place(ACPI_TABLES, fixed, interrupts, self.dsdt())

    def boot(self, payload: Payload) -> Entry:
        """See Board; a bzImage by its 64-bit entry, an ELF by its PVH note."""
        memory = self._platform.memory
        placed = self.acpi()
        memory.write(placed.base, placed.image)
        layout = memory_map(self._platform.config.memory_mib)
        if pvh.is_elf(payload.kernel):
            return pvh.load(memory, layout, payload, placed.rsdp)
        return linux.load(memory, layout, payload, placed.rsdp)

    # -- running ------------------------------------------------------------------------------

    def start(self) -> None:
        """See Board."""
        for slot in self.slots:
            slot.start()

    def stop(self) -> None:
        """See Board."""
        for slot in self.slots:
            slot.stop()
        self.slots.clear()
        for image in self.images:
            image.close()
        self.images.clear()

    def hold(self) -> None:
        """See Board."""
        for slot in self.slots:
            slot.transport.hold()

    def release(self) -> None:
        """See Board."""
        for slot in self.slots:
            slot.transport.release()

    def reset(self) -> None:
        """See Board; the real-time clock has a battery and keeps date and CMOS."""
        for device in self.devices.values():
            device.reset()

    def type(self, data: bytes) -> None:
        """See Board; it is the last console that the command line names."""
        words = self._platform.config.cmdline.split()
        consoles = [word for word in words if word.startswith("console=")]
        is_hvc = bool(consoles) and consoles[-1].startswith("console=hvc")
        self.receive("virtio" if is_hvc else "serial", data)

    def receive(self, console: str, data: bytes) -> None:
        """See Board."""
        if console == "serial":
            self.serial.receive(data)
        elif self._hvc is not None:
            with self._platform.turn():
                self._hvc.receive(data)

    def press_power_button(self) -> None:
        """See Board."""
        self.power.press_button()

    def wants_polling(self) -> bool:
        """See Board."""
        return self.serial.wants_thre


class _Nowhere:
    """The host's end of a console that nobody asked for."""

    def write(self, data: bytes) -> None:
        """See Console."""


def _cmos(mib: int) -> dict[int, int]:
    """The memory sizes that PC firmware leaves in CMOS."""
    above_1m_kib = min((mib - 1) * 1024, 0xFFFF)
    above_16m_64k = min(max(min(mib, LOW_LIMIT // MIB) - 16, 0) * 16, 0xFFFF)
    sizes = {0x15: 640, 0x17: above_1m_kib, 0x30: above_1m_kib, 0x34: above_16m_64k}
    cmos = {}
    for at, value in sizes.items():
        cmos[at], cmos[at + 1] = value & 0xFF, value >> 8
    return cmos
