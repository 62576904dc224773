"""Boot a bzImage by its 64-bit entry (Linux Documentation/x86/boot.rst, protocol 2.12 on)."""

from __future__ import annotations

import struct

from kvm_core.errors import ConfigError
from vmmuser.boot import lowmem
from vmmuser.boot.payload import Entry, Image, MemoryMap, Payload, load_initrd
from vmmuser.memory import GuestMemory

SETUP_HEADER = 0x1F1
HEADER_MAGIC = b"HdrS"
HEADER_MAX = 0x290
XLF_KERNEL_64, XLF_ABOVE_4G = 1, 2
LOADED_HIGH, KEEP_SEGMENTS = 0x01, 0x40
ENTRY_64 = 0x200
E820_MAX = 128
ONE_MIB = 1 << 20


class SetupHeader:
    """The fields of the setup header that a loader needs. Offsets are the document's."""

    def __init__(self, kernel: Image) -> None:
        """Read and check. :raise ConfigError: if it has no 64-bit entry or is cut short."""
        self.bytes = kernel.read(0, HEADER_MAX)
        where = f"--kernel {kernel.name}"
        if len(self.bytes) < HEADER_MAX or not self._is_bzimage():
            raise ConfigError(f"{where}: is not a Linux bzImage; name one")
        self.version = self._u("<H", 0x206)
        if self.version < 0x20C or not self._u("<H", 0x236) & XLF_KERNEL_64:
            raise ConfigError(
                f"{where}: its boot protocol {self.version:#x} has no 64-bit "
                "entry; name a 64-bit kernel (3.8 or later)"
            )
        self.setup_bytes = ((self._u("<B", 0x1F1) or 4) + 1) * 512
        syssize = self._u("<I", 0x1F4) * 16
        # syssize counts paragraphs, so the file may end up to 15 bytes earlier.
        if kernel.size + 15 < self.setup_bytes + syssize:
            missing = self.setup_bytes + syssize - kernel.size
            raise ConfigError(f"{where}: is cut short by {missing} bytes; get it again")
        self.alignment = self._u("<I", 0x230) or ONE_MIB
        self.relocatable = bool(self._u("<B", 0x234))
        self.pref_address = self._u("<Q", 0x258)
        self.init_size = self._u("<I", 0x260)
        self.memory_size = max(self.init_size, kernel.size - self.setup_bytes)
        self.initrd_max = self._u("<I", 0x22C)
        self.cmdline_max = self._u("<I", 0x238)
        self.xloadflags = self._u("<H", 0x236)
        self.header_end = 0x202 + self._u("<B", 0x201)
        if self.alignment & (self.alignment - 1):
            raise ConfigError(f"{where}: alignment {self.alignment:#x}; get it again")

    def _is_bzimage(self) -> bool:
        return self.bytes[0x202:0x206] == HEADER_MAGIC and self.bytes[0x1FE:0x200] == b"\x55\xaa"

    def _u(self, form: str, at: int) -> int:
        return int(struct.unpack_from(form, self.bytes, at)[0])


def _load_address(header: SetupHeader, top: int, name: str) -> int:
    """Where the protected-mode kernel goes, with init_size bytes of RAM behind it, and
    room for what may be appended to the file.

    A relocatable kernel that lies lower moves itself up to pref_address (boot.rst, init_size), so
    that lower places spare no memory.
    """
    address = max(header.pref_address, ONE_MIB)
    if header.relocatable:
        address = (address + header.alignment - 1) & ~(header.alignment - 1)
    if address + header.memory_size <= top:
        return address
    need = (address + header.memory_size + ONE_MIB - 1) >> 20
    raise ConfigError(f"--kernel {name}: needs {need} MiB of memory; give more with -m")


def load(memory: GuestMemory, map_: MemoryMap, payload: Payload, rsdp: int) -> Entry:
    """Put kernel, initrd, command line and boot_params into memory. :raise ConfigError: if they
    do not fit.
    """
    kernel = payload.kernel
    header = SetupHeader(kernel)
    kernel_at = _load_address(header, map_.low_top, kernel.name)
    kernel.load(header.setup_bytes, memory.view(kernel_at, kernel.size - header.setup_bytes))

    params = bytearray(4096)
    end = min(header.header_end, HEADER_MAX)
    params[SETUP_HEADER:end] = header.bytes[SETUP_HEADER:end]
    struct.pack_into("<H", params, 0x1FA, 0xFFFF)  # vid_mode: normal
    params[0x210] = 0xFF  # type_of_loader: one without a number
    params[0x211] |= LOADED_HIGH
    struct.pack_into("<I", params, 0x214, kernel_at)  # code32_start

    if payload.initrd:
        ceiling = min(map_.low_top, header.initrd_max + 1)
        address = load_initrd(memory, payload.initrd, kernel_at + header.memory_size, ceiling)
        struct.pack_into("<II", params, 0x218, address, payload.initrd.size)

    cmdline = payload.cmdline_bytes() + b"\0"
    limit = min(header.cmdline_max or 255, lowmem.CMDLINE_MAX - 1)
    if len(cmdline) - 1 > limit:
        raise ConfigError(
            f"--append: {len(cmdline) - 1} bytes, the kernel takes {limit}; shorten it"
        )
    memory.write(lowmem.CMDLINE, cmdline)
    struct.pack_into("<I", params, 0x228, lowmem.CMDLINE)

    struct.pack_into("<Q", params, 0x070, rsdp)  # acpi_rsdp_addr
    params[0x1E8] = len(map_.e820)
    for i, (address, size, kind) in enumerate(map_.e820[:E820_MAX]):
        struct.pack_into("<QQI", params, 0x2D0 + 20 * i, address, size, kind)
    memory.write(lowmem.BOOT_PARAMS, params)

    limit = lowmem.write_gdt(memory, long_mode=True)
    cr3 = lowmem.write_page_tables(memory)
    return Entry(
        mode="long",
        rip=kernel_at + ENTRY_64,
        regs={"rsi": lowmem.BOOT_PARAMS, "rsp": 0x8000},
        cr3=cr3,
        gdt=lowmem.GDT,
        gdt_limit=limit,
    )
