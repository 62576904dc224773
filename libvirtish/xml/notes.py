"""What a domain asks for and does not get, in words: for the log and for `virsh dominfo`."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from libvirtish.xml.parse import place

# Elements that are read elsewhere, or that have nothing to be had.
READ = frozenset(
    (
        *("name", "uuid", "title", "description", "metadata", "genid"),
        *("memory", "currentMemory", "maxMemory", "vcpu", "os", "features", "cpu", "clock", "pm"),
        *("on_poweroff", "on_reboot", "on_crash", "devices"),
    )
)
DEVICES_READ = frozenset(["emulator", "disk", "serial", "console"])
OS_READ = frozenset(["type", "kernel", "initrd", "cmdline", "boot"])
FEATURES_THERE = frozenset(["acpi", "apic", "pae"])


def of_domain(root: etree._Element, vcpus: int) -> list[str]:
    """Return a note for each thing that is asked for and not there."""
    return [
        f"{place(element)}: {text}" for element, text in (*_machine(root, vcpus), *_devices(root))
    ]


def _machine(root: etree._Element, vcpus: int) -> Iterator[tuple[etree._Element, str]]:
    kind = root.find("os/type")
    if kind is not None and not kind.get("machine", "microvm").startswith("microvm"):
        yield kind, f"the machine is our board microvm, not {kind.get('machine')}"
    for element in root.findall("os/*"):
        if element.tag not in OS_READ:
            yield element, "there is no firmware: the kernel is loaded directly"
    for element in root.findall("features/*"):
        if element.tag not in FEATURES_THERE:
            yield element, "this feature is not there"
    clock = root.find("clock")
    if clock is not None and clock.get("offset", "utc") != "utc":
        yield clock, "the guest's clock is in UTC"
    cpu = root.find("cpu")
    if cpu is not None:
        yield from _cpu(cpu, vcpus)
    for element in root:
        if element.tag not in READ:
            yield element, "has no effect"


def _cpu(cpu: etree._Element, vcpus: int) -> Iterator[tuple[etree._Element, str]]:
    model = cpu.find("model")
    if model is not None and (model.text or "").strip() not in ("qemu64", "x86-64-v2", "x86-64-v3"):
        yield model, f"the processor is our model host, not {(model.text or '').strip()!r}"
    for element in cpu.findall("feature"):
        yield element, f"feature {element.get('name')!r} is the model's"
    topology = cpu.find("topology")
    if topology is not None and topology.get("cores") != str(vcpus):
        yield topology, f"the topology is one socket with {vcpus} cores"
    if cpu.find("numa") is not None:
        yield cpu, "there is one NUMA node"


def _devices(root: etree._Element) -> Iterator[tuple[etree._Element, str]]:
    for element in root.findall("devices/*"):
        tag = element.tag
        if tag in DEVICES_READ or element.get("model") == "none" or element.get("type") == "none":
            continue
        if tag == "rng" and element.get("model", "virtio") == "virtio":
            continue  # the board has one
        if tag == "controller" and element.get("type") in ("pci", "virtio-serial"):
            continue  # the bus is virtio-mmio; nothing that the guest could miss
        what = {"interface": "network interface", "hostdev": "host device"}.get(str(tag), str(tag))
        yield element, f"a {what} is not there"
