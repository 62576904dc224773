"""Builds the guest's initramfs: busybox, tools/guest/init, and the kernel's virtio modules.

Not compressed: unpacking would be work for the emulated processor, reading it is not.
"""

from __future__ import annotations

import hashlib
import lzma
import re
from pathlib import Path

from tools.cpio import Archive

GUEST = Path(__file__).resolve().parent / "guest"
INIT = GUEST / "init"

# What /init may load; a module that the kernel has built in, or lacks, is left out.
MODULES = (
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio-rng",
    "virtio_net",
    "pvpanic-mmio",
    "button",
    "evdev",
    "ext4",
    "crc32c_generic",
)

# busybox acpid runs this for KEY_POWER of an input device.
POWER_BUTTON = b"#!/bin/sh\necho 'kvmish: power button' >/dev/console\nsync\npoweroff -f\n"

SELFCHECK_DATA = b"".join(
    hashlib.sha256(b"kvmish %d" % block).digest() for block in range(2048)
)  # 64 KiB


def build(busybox: bytes, applets: list[str], modules: Path | None) -> bytes:
    """Return the archive. modules: the package's /lib/modules/RELEASE, or None for no modules."""
    archive = Archive()
    for path in ("bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/modules", "proc"):
        archive.directory(path)
    for path in ("root", "sys", "tmp", "mnt"):
        archive.directory(path)
    # Linux, Documentation/admin-guide/devices.txt
    archive.char_device("dev/console", 5, 1)
    archive.char_device("dev/null", 1, 3, 0o666)
    archive.char_device("dev/tty", 5, 0, 0o666)
    archive.char_device("dev/ttyS0", 4, 64)
    archive.file("bin/busybox", busybox, 0o755)
    for applet in applets:
        if applet not in ("busybox", "init"):
            archive.symlink(f"bin/{applet}", "busybox")
    archive.file("init", INIT.read_bytes(), 0o755)
    archive.file("etc/acpi/PWRF/00000080", POWER_BUTTON, 0o755)
    archive.file("etc/selfcheck.data", SELFCHECK_DATA)
    digest = hashlib.sha256(SELFCHECK_DATA).hexdigest()
    archive.file("etc/selfcheck.sha256", f"{digest}  selfcheck.data\n".encode())
    _add_modules(archive, modules)
    return archive.finish()


def _add_modules(archive: Archive, directory: Path | None) -> None:
    found: dict[str, Path] = {}
    if directory is not None:
        for path in sorted(directory.rglob("*.ko*")):
            found[_key(path.name.split(".ko")[0])] = path
    images: dict[str, bytes] = {}
    lines = []
    for name in MODULES:
        order: list[str] = []
        _resolve(_key(name), found, images, order)
        if order:
            lines.append(f"{name} " + " ".join(f"{key}.ko" for key in order))
    for key, image in images.items():
        archive.file(f"lib/modules/{key}.ko", image)
    archive.file("lib/modules/order", "".join(f"{line}\n" for line in lines).encode())


def _resolve(key: str, found: dict[str, Path], images: dict[str, bytes], order: list[str]) -> None:
    """Append a module after everything that it depends on."""
    if key in order or key not in found:
        return
    if key not in images:
        images[key] = _module_image(found[key])
    for dependency in dependencies(found[key]):
        _resolve(dependency, found, images, order)
    order.append(key)


def dependencies(path: Path) -> list[str]:
    """Return the names of the modules that a module's own .modinfo says it needs."""
    match = re.search(rb"\0depends=([^\0]*)\0", _module_image(path))
    return [_key(name) for name in match.group(1).decode().split(",") if name] if match else []


def _module_image(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _key(name: str) -> str:
    return name.replace("-", "_")
