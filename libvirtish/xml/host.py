"""What the connection says of itself: capabilities of the host and of domains, as XML."""

from __future__ import annotations

import os
import platform
import uuid
from pathlib import Path

from lxml import etree
from lxml.builder import E

from libvirtish.rpc import types as t
from libvirtish.xml.domain import CPU_MODELS, MACHINE, MAX_VCPUS
from libvirtish.xml.parse import serialize

ARCH = "x86_64"


def node_info() -> t.NodeInfo:
    """Return the host's processors and memory."""
    cpus = os.cpu_count() or 1
    memory_kib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    return t.NodeInfo(platform.machine(), memory_kib, cpus, _mhz(), 1, 1, cpus, 1)


def _mhz() -> int:
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        ):
            if line.startswith("cpu MHz"):
                return int(float(line.partition(":")[2]))
    except (OSError, ValueError):
        pass
    return 0


def _host_uuid() -> str:
    try:
        return str(uuid.UUID(Path("/etc/machine-id").read_text(encoding="ascii").strip()))
    except (OSError, ValueError):
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, platform.node()))


def capabilities(emulator: str) -> str:
    """Return the <capabilities> document: a host, and guests of type hvm by kvm and qemu."""
    info = node_info()
    root = E.capabilities(
        E.host(
            E.uuid(_host_uuid()),
            E.cpu(
                E.arch(ARCH),
                E.topology(sockets="1", dies="1", cores=str(info.cores), threads="1"),
            ),
            E.topology(
                E.cells(
                    E.cell(
                        E.memory(str(info.memory), unit="KiB"),
                        E.cpus(
                            *[
                                E.cpu(id=str(n), socket_id="0", core_id=str(n), siblings=str(n))
                                for n in range(info.cpus)
                            ],
                            num=str(info.cpus),
                        ),
                        id="0",
                    ),
                    num="1",
                )
            ),
        ),
        E.guest(
            E.os_type("hvm"),
            E.arch(
                E.wordsize("64"),
                E.emulator(emulator),
                E.machine(MACHINE, maxCpus=str(MAX_VCPUS)),
                E.domain(type="qemu"),
                E.domain(type="kvm"),
                name=ARCH,
            ),
            E.features(E.acpi(default="on", toggle="no"), E.apic(default="on", toggle="no")),
        ),
    )
    return serialize(root)


def domain_capabilities(emulator: str, virt_type: str) -> str:
    """Return the <domainCapabilities> document."""

    def enum(name: str, *values: str) -> etree._Element:
        element: etree._Element = E.enum(*[E.value(value) for value in values], name=name)
        return element

    no = {"supported": "no"}
    root = E.domainCapabilities(
        E.path(emulator),
        E.domain(virt_type),
        E.machine(MACHINE),
        E.arch(ARCH),
        E.vcpu(max=str(MAX_VCPUS)),
        E.os(enum("firmware"), E.loader(**no), supported="yes"),
        E.cpu(
            E.mode(name="host-passthrough", supported="yes"),
            E.mode(name="maximum", supported="yes"),
            E.mode(
                *[E.model(name, usable="yes") for name in CPU_MODELS],
                name="custom",
                supported="yes",
            ),
        ),
        E.devices(
            E.disk(enum("diskDevice", "disk"), enum("bus", "virtio"), supported="yes"),
            E.graphics(**no),
            E.video(**no),
            E.hostdev(**no),
            E.rng(enum("model", "virtio"), enum("backendModel", "random"), supported="yes"),
        ),
    )
    return serialize(root)
