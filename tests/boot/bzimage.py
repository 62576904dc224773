"""Made-up bzImages."""

from __future__ import annotations

import struct

KERNEL = bytes(range(256)) * 32


def bzimage(kernel: bytes = KERNEL, **fields: int) -> bytes:
    """A bzImage of 4 setup sectors, with the header's fields as asked."""
    values = {
        "setup_sects": 4,
        "syssize": len(kernel) // 16,
        "version": 0x20F,
        "alignment": 0x200000,
        "relocatable": 1,
        "xloadflags": 3,
        "pref_address": 0x1000000,
        "init_size": 0x100000,
        "initrd_max": 0x7FFFFFFF,
        "cmdline_max": 2047,
    } | fields
    image = bytearray((values["setup_sects"] + 1) * 512)
    image[0x1F1] = values["setup_sects"]
    struct.pack_into("<I", image, 0x1F4, values["syssize"])
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x200:0x202] = b"\xeb\x6a"  # the header ends at 0x26c
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, values["version"])
    struct.pack_into("<I", image, 0x22C, values["initrd_max"])
    struct.pack_into("<I", image, 0x230, values["alignment"])
    image[0x234] = values["relocatable"]
    struct.pack_into("<H", image, 0x236, values["xloadflags"])
    struct.pack_into("<I", image, 0x238, values["cmdline_max"])
    struct.pack_into("<Q", image, 0x258, values["pref_address"])
    struct.pack_into("<I", image, 0x260, values["init_size"])
    return bytes(image) + kernel
