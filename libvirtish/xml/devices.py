"""Disks and consoles of a domain's <devices>: what the machine can have of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from libvirtish.errors import Code
from libvirtish.xml.parse import XmlRefusalError, place, text_of

MAX_DISKS = 9  # the board has that many places for virtio-mmio devices besides rng and console
_ROOT = re.compile(r"(?:^|\s)root=(?:/dev/)?(vd[a-z])[0-9]*(?:\s|$)")


@dataclass(frozen=True)
class Disk:
    """A virtio disk over a raw file or block device."""

    path: str
    target: str
    read_only: bool
    serial: str | None


@dataclass(frozen=True)
class Console:
    """A console: the 16550 or the virtio console, and where its other end is."""

    device: str  # serial or virtio
    backend: str  # pty, unix, file, null
    path: str | None
    log: str | None

    @property
    def alias(self) -> str:
        """Return the name that libvirt gives it."""
        return "serial0" if self.device == "serial" else "console0"

    def elements(self, root: etree._Element) -> list[etree._Element]:
        """Return where the tree has it: the first serial port is a <serial> and a <console>."""
        consoles = root.findall("devices/console")
        virtio = [each for each in consoles if _target_type(each) == "virtio"]
        if self.device == "virtio":
            return virtio[:1]
        serial = [each for each in consoles if each not in virtio]
        return [*root.findall("devices/serial")[:1], *serial[:1]]


def _target_type(element: etree._Element) -> str:
    target = element.find("target")
    return "serial" if target is None else target.get("type", "serial")


def read_disks(devices: etree._Element, cmdline: str, notes: list[str]) -> tuple[Disk, ...]:
    """Read the disks, in the order that the guest will name them: vda, vdb, ...

    A disk that cannot be had is a note, and a refusal if the kernel is told to have its root there.
    """
    disks: list[Disk] = []
    seen: set[str] = set()
    root = _ROOT.search(cmdline)
    for element in devices.findall("disk"):
        target_element = element.find("target")
        target = "" if target_element is None else target_element.get("dev", "")
        if target in seen:
            raise XmlRefusalError(
                element, f"a second disk {target!r}", "give it a target of its own"
            )
        seen.add(target)
        disk, problem = _read_disk(element, target)
        if disk is not None and len(disks) == MAX_DISKS:
            disk, problem = None, f"the board has places for {MAX_DISKS} disks"
        if disk is None:
            if root and root[1] == target:
                what = f"the root disk cannot be had: {problem}"
                raise XmlRefusalError(element, what, "change the disk", Code.CONFIG_UNSUPPORTED)
            notes.append(f"{place(element)}: disk {target} left out: {problem}")
            continue
        expected = f"vd{chr(ord('a') + len(disks))}"
        disks.append(disk)
        bus = "virtio" if target_element is None else target_element.get("bus", "virtio")
        if bus != "virtio" or target != expected:
            notes.append(f"{place(element)}: disk {target} on bus {bus} is virtio disk {expected}")
    return tuple(disks)


def _read_disk(element: etree._Element, target: str) -> tuple[Disk | None, str]:
    """Return the disk, or None and why there is none."""
    source = element.find("source")
    kind, device = element.get("type", "file"), element.get("device", "disk")
    if source is None and device in ("cdrom", "floppy"):
        return None, f"an empty {device} drive"
    attribute = {"file": "file", "block": "dev"}.get(kind)
    path = source.get(attribute) if source is not None and attribute else None
    if not path:
        return None, f"a source of type {kind!r} is not there; use type='file' and a raw image"
    if not path.startswith("/"):
        raise XmlRefusalError(element, f"the source {path!r} is not an absolute path", "give one")
    driver = element.find("driver")
    form = "raw" if driver is None else driver.get("type", "raw")
    if form != "raw":
        convert = f"qemu-img convert -O raw {path} {path}.raw"
        return None, f"format {form!r} is not there; {convert}"
    if device not in ("disk", "cdrom", "lun"):
        return None, f"a {device} drive is not there"
    read_only = device == "cdrom" or element.find("readonly") is not None
    return Disk(path, target, read_only, text_of(element, "serial")), ""


def read_consoles(devices: etree._Element, notes: list[str]) -> tuple[Console, ...]:
    """Read the consoles: at most one serial and one virtio console.

    libvirt's rule: the first <console> without another target is the first <serial> once more.
    """
    consoles: dict[str, Console] = {}
    serials = devices.findall("serial")
    for element in [*serials[:1], *devices.findall("console")]:
        kind = _target_type(element)
        device = "virtio" if element.tag == "console" and kind == "virtio" else "serial"
        if element.tag == "console" and kind not in ("serial", "virtio"):
            notes.append(f"{place(element)}: a console of type {kind!r} is not there; left out")
        elif device not in consoles:
            consoles[device] = _console(element, device, notes)
        elif device == "virtio":
            notes.append(f"{place(element)}: there is one virtio console; left out")
    for element in serials[1:]:
        notes.append(f"{place(element)}: there is one serial port; left out")
    if serials and devices.find("console") is None:  # as libvirt: both names for the first port
        twin = etree.Element("console", type=serials[0].get("type", "pty"))
        etree.SubElement(twin, "target", type="serial", port="0")
        serials[-1].addnext(twin)
    return tuple(consoles.values())


def _console(element: etree._Element, device: str, notes: list[str]) -> Console:
    kind = element.get("type", "pty")
    source, log = element.find("source"), element.find("log")
    path = source.get("path") if source is not None else None
    log_path = log.get("file") if log is not None else None
    if kind in ("unix", "file"):
        if not path or not path.startswith("/"):
            what = f"type {kind!r} needs an absolute path"
            raise XmlRefusalError(element, what, "add <source path='/...'/>, or use type='pty'")
        if kind == "unix" and source is not None and source.get("mode") == "connect":
            notes.append(f"{place(element)}: mode='connect' is not there; it listens")
    elif kind not in ("pty", "null"):
        notes.append(f"{place(element)}: a console of type {kind!r} is not there; it is a pty")
        kind = "pty"
    return Console(device, kind, path if kind in ("unix", "file") else None, log_path)
