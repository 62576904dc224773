"""Files to boot from that are on no disk."""

from __future__ import annotations

import os

from vmmuser.boot.payload import Image, Payload


def image(data: bytes, option: str = "--kernel", name: str = "KERNEL") -> Image:
    """A file with these bytes."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return Image(fd, option, name)


def payload(kernel: bytes, initrd: bytes = b"", cmdline: str = "") -> Payload:
    """A kernel, and an initrd if it has any bytes."""
    second = image(initrd, "--initrd", "INITRD") if initrd else None
    return Payload(image(kernel), second, cmdline)
