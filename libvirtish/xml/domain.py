"""Domain XML as a typed model, over its tree: what is not understood is kept, and said.

`parse_domain` refuses only what could not run. What is asked for and not there becomes a note: a
line, a path and what happens instead. `Definition.xml()` gives back the tree: normalised where
understood, untouched elsewhere.
"""

from __future__ import annotations

import copy
import re
import uuid as uuids
from dataclasses import dataclass, field

from lxml import etree

from libvirtish.errors import Code
from libvirtish.xml import notes as missing
from libvirtish.xml.devices import Console, Disk, read_consoles, read_disks
from libvirtish.xml.parse import XmlRefusalError, parse, serialize, text_of

KIB = 1024
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 4 << 20, 1 << 40
MAX_VCPUS = 255
NAME_MAX_BYTES = 200  # the name is also a file's, with a suffix
MACHINE = "microvm"
CPU_MODELS = ("qemu64", "x86-64-v2", "x86-64-v3")  # by these names; else the guest gets `host`

# Units of <memory> and <currentMemory>, in bytes.
UNITS = {"b": 1, "bytes": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", 1)
    for name, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}

ACTIONS = {
    "on_poweroff": ("destroy", ("destroy", "restart", "preserve", "rename-restart")),
    "on_reboot": ("restart", ("destroy", "restart", "preserve", "rename-restart")),
    "on_crash": (
        "destroy",
        (
            "destroy",
            "restart",
            "preserve",
            "rename-restart",
            "coredump-destroy",
            "coredump-restart",
        ),
    ),
}


@dataclass(frozen=True)
class Definition:
    """A domain as defined. Memory in KiB."""

    tree: etree._Element = field(repr=False)
    name: str
    uuid: uuids.UUID
    virt_type: str
    memory_kib: int
    current_memory_kib: int
    vcpus: int
    kernel: str
    initrd: str | None
    cmdline: str
    cpu: str
    disks: tuple[Disk, ...]
    consoles: tuple[Console, ...]
    on_poweroff: str
    on_reboot: str
    on_crash: str
    notes: tuple[str, ...]

    def xml(self) -> str:
        """Return the definition as XML."""
        return serialize(copy.deepcopy(self.tree))

    def live_xml(self, domain_id: int, ttys: dict[str, str]) -> str:
        """Return it as of a running domain; ttys: device of a console -> path of its terminal."""
        tree = copy.deepcopy(self.tree)
        tree.set("id", str(domain_id))
        for console in self.consoles:
            path = ttys.get(console.device)
            for element in console.elements(tree) if path else ():
                if element.tag == "console" and console.backend == "pty":
                    element.set("tty", str(path))
                source = element.find("source")
                if source is None:
                    source = etree.Element("source")
                    element.insert(0, source)
                source.set("path", str(path))
        return serialize(tree)

    def renamed(self, name: str) -> Definition:
        """Return the same domain under another name. :raise VirError: if it is none."""
        tree = copy.deepcopy(self.tree)
        element = tree.find("name")
        assert element is not None  # noqa: S101 - a definition has one
        element.text = name
        return parse_domain(etree.tostring(tree, encoding="unicode"))


def parse_domain(text: str) -> Definition:
    """Read a <domain>. :raise VirError: if it is not one, or one that could not run."""
    root = parse(text, "domain")
    root.attrib.pop("id", "")
    virt_type = root.get("type") or ""
    if virt_type not in ("kvm", "qemu"):
        raise XmlRefusalError(root, f"type {virt_type!r} is not there", "use type='kvm' or 'qemu'")
    name = _name(root)
    uuid = _uuid(root)
    memory, current = _memory(root)
    vcpus = _vcpus(root)
    kernel, initrd, cmdline = _boot(root)
    cpu = _cpu(root)
    actions = {tag: _action(root, tag) for tag in ACTIONS}
    notes: list[str] = []
    devices = _devices(root)
    disks = read_disks(devices, cmdline, notes)
    consoles = read_consoles(devices, notes)
    notes += missing.of_domain(root, vcpus)
    return Definition(
        tree=root,
        name=name,
        uuid=uuid,
        virt_type=virt_type,
        memory_kib=memory,
        current_memory_kib=current,
        vcpus=vcpus,
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline,
        cpu=cpu,
        disks=disks,
        consoles=consoles,
        notes=tuple(notes),
        **actions,
    )


def check_name(name: str) -> str | None:
    """Return what is wrong with a domain's name, or None."""
    if not name:
        return "is empty"
    if "/" in name:
        return f"{name!r} contains '/'"
    if name.startswith("."):
        return f"{name!r} begins with a dot"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "contains a control character"
    if len(name.encode()) > NAME_MAX_BYTES:
        return f"has {len(name.encode())} bytes, more than {NAME_MAX_BYTES}"
    return None


def _name(root: etree._Element) -> str:
    element = root.find("name")
    if element is None:
        raise XmlRefusalError(root, "has no <name>", "add <name>...</name>")
    name = element.text or ""
    if wrong := check_name(name):
        raise XmlRefusalError(element, f"the name {wrong}", "choose another")
    return name


def _after(root: etree._Element, tags: tuple[str, ...], element: etree._Element) -> None:
    """Insert behind the last of the tags."""
    last = max((root.index(child) for child in root if child.tag in tags), default=-1)
    root.insert(last + 1, element)


def _uuid(root: etree._Element) -> uuids.UUID:
    element = root.find("uuid")
    if element is None:
        element = etree.Element("uuid")
        _after(root, ("name",), element)
        value = uuids.uuid4()
    else:
        try:
            value = uuids.UUID((element.text or "").strip())
        except ValueError:
            what = f"{(element.text or '').strip()!r} is not a UUID"
            raise XmlRefusalError(
                element, what, "give 32 hexadecimal digits, or leave the element out"
            ) from None
    element.text = str(value)
    return value


def _bytes(element: etree._Element) -> int:
    unit = element.get("unit", "KiB")
    scale = UNITS.get(unit.lower())
    if scale is None:
        known = "bytes, KiB, MiB, GiB or TiB"
        raise XmlRefusalError(element, f"{unit!r} is not a unit of memory", f"use {known}")
    text = (element.text or "").strip()
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise XmlRefusalError(element, f"{text!r} is not a size", "give a number, such as 262144")
    size: int = int(text) * scale
    return size


def _memory(root: etree._Element) -> tuple[int, int]:
    """Return memory and current memory in KiB, written back as whole MiB."""
    element = root.find("memory")
    if element is None:
        raise XmlRefusalError(root, "has no <memory>", "add <memory unit='MiB'>256</memory>")
    size = _bytes(element)
    if not MIN_MEMORY_BYTES <= size <= MAX_MEMORY_BYTES:
        raise XmlRefusalError(element, f"{size} bytes of memory cannot be", "give 4 MiB to 1 TiB")
    memory_kib = (size + (1 << 20) - 1 >> 20) * KIB  # our memory is in MiB: rounded up, as libvirt
    current = root.find("currentMemory")
    if current is None:
        current = etree.Element("currentMemory")
        _after(root, ("memory",), current)
        current_kib = memory_kib
    else:
        current_kib = min((_bytes(current) + KIB - 1) // KIB, memory_kib)
    for each, kib in ((element, memory_kib), (current, current_kib)):
        each.set("unit", "KiB")
        each.text = str(kib)
    return memory_kib, current_kib


def _vcpus(root: etree._Element) -> int:
    element = root.find("vcpu")
    if element is None:
        element = etree.Element("vcpu")
        _after(root, ("currentMemory", "memory"), element)
        element.text = "1"
    text = (element.text or "").strip()
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= MAX_VCPUS:
        what = f"{text!r} is not a number of processors"
        raise XmlRefusalError(element, what, f"give 1 to {MAX_VCPUS}")
    element.set("placement", element.get("placement", "static"))
    return int(text)


def _boot(root: etree._Element) -> tuple[str, str | None, str]:
    system = root.find("os")
    if system is None:
        raise XmlRefusalError(
            root, "has no <os>", "add <os><type>hvm</type><kernel>...</kernel></os>"
        )
    kind = system.find("type")
    if kind is None or (kind.text or "").strip() != "hvm":
        at = system if kind is None else kind
        raise XmlRefusalError(at, "the type is not hvm", "write <type>hvm</type>", Code.XML_ERROR)
    if kind.get("arch", "x86_64") not in ("x86_64", "amd64"):
        what = f"a processor {kind.get('arch')!r} is not there"
        raise XmlRefusalError(kind, what, "use arch='x86_64'", Code.CONFIG_UNSUPPORTED)
    kind.set("arch", "x86_64")
    kind.set("machine", kind.get("machine", MACHINE))
    kernel = text_of(system, "kernel")
    if kernel is None:
        what = "has no <kernel>: there is no firmware that could load one from a disk"
        remedy = "add <kernel>/path/of/vmlinuz</kernel>, and <initrd> and <cmdline> as needed"
        raise XmlRefusalError(system, what, remedy, Code.CONFIG_UNSUPPORTED)
    initrd = text_of(system, "initrd")
    for tag, path in (("kernel", kernel), ("initrd", initrd)):
        if path is not None and not path.startswith("/"):
            element = system.find(tag)
            assert element is not None  # noqa: S101 - its text was just read
            what = f"{path!r} is not an absolute path"
            raise XmlRefusalError(element, what, "begin it with a slash: the daemon runs elsewhere")
    return kernel, initrd, text_of(system, "cmdline") or ""


def _cpu(root: etree._Element) -> str:
    model = text_of(root, "cpu/model")
    return model if model in CPU_MODELS else "host"


def _action(root: etree._Element, tag: str) -> str:
    default, known = ACTIONS[tag]
    element = root.find(tag)
    if element is None:
        element = etree.Element(tag)
        element.text = default
        devices = root.find("devices")
        if devices is None:
            root.append(element)
        else:
            devices.addprevious(element)
    text = (element.text or "").strip()
    if text not in known:
        raise XmlRefusalError(
            element, f"{text!r} is not an action", f"use one of {', '.join(known)}"
        )
    return text


def _devices(root: etree._Element) -> etree._Element:
    devices = root.find("devices")
    if devices is None:
        devices = etree.SubElement(root, "devices")
    return devices
