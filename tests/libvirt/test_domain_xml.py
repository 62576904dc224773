"""Domain XML: what is understood, what is kept, what is refused and in which words."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from libvirtish.description import description
from libvirtish.errors import Code, VirError
from libvirtish.xml.domain import parse_domain

PLAIN = """\
<domain type='kvm'>
  <name>plain</name>
  <memory unit='MiB'>64</memory>
  <os>
    <type>hvm</type>
    <kernel>/boot/vmlinuz</kernel>
    <cmdline>console=ttyS0 root=/dev/vda1 rw</cmdline>
  </os>
  <devices>
    <disk type='file'><source file='/a.img'/><target dev='vda' bus='virtio'/></disk>
  </devices>
</domain>
"""


def changed(*pairs: tuple[str, str]) -> str:
    text = PLAIN
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def with_devices(devices: str) -> str:
    return changed(("  </devices>", devices + "  </devices>"))


def test_a_plain_domain() -> None:
    domain = parse_domain(PLAIN)
    assert (domain.name, domain.memory_kib, domain.vcpus) == ("plain", 64 << 10, 1)
    assert [disk.path for disk in domain.disks] == ["/a.img"]
    assert domain.consoles == ()
    assert domain.notes == ()


def test_the_machine_is_described_to_the_vmm() -> None:
    xml = with_devices(
        "<serial type='pty'/><console type='unix'>"
        "<source path='/s'/><target type='virtio'/></console>"
    )
    told = description(parse_domain(xml))
    assert told["memory_mib"] == 64
    assert told["cmdline"] == "console=ttyS0 root=/dev/vda1 rw"
    assert "initrd" not in told
    assert told["disks"] == [{"path": "/a.img", "read_only": False}]
    assert told["consoles"] == [
        {"device": "serial", "backend": "pty", "id": "serial0"},
        {"device": "virtio", "backend": "unix", "id": "console0", "path": "/s"},
    ]


@pytest.mark.parametrize(
    ("unit", "number", "kib"),
    [
        ("", 65536, 65536),
        (" unit='b'", 67108864, 65536),
        (" unit='KB'", 67109, 66560),  # rounded up to a MiB
        (" unit='k'", 65536, 65536),
        (" unit='MiB'", 64, 65536),
        (" unit='M'", 64, 65536),
        (" unit='MB'", 64, 63488),
        (" unit='GiB'", 1, 1048576),
        (" unit='TiB'", 1, 1 << 30),
    ],
)
def test_units_of_memory(unit: str, number: int, kib: int) -> None:
    xml = changed(("<memory unit='MiB'>64<", f"<memory{unit}>{number}<"))
    assert parse_domain(xml).memory_kib == kib


def test_written_back_it_is_the_same_domain() -> None:
    once = parse_domain(PLAIN)
    again = parse_domain(once.xml())
    assert again.xml() == once.xml()
    assert again.uuid == once.uuid


def test_what_is_not_understood_is_kept() -> None:
    xml = with_devices("<tpm model='tpm-crb'><backend type='emulator'/></tpm>").replace(
        "</domain>", "<metadata><m:x xmlns:m='urn:m' a='1'>text</m:x></metadata></domain>"
    )
    root = etree.fromstring(parse_domain(xml).xml())
    assert root.find("devices/tpm/backend").get("type") == "emulator"
    assert root.find("metadata/{urn:m}x").text == "text"


def test_a_running_domain_shows_its_id_and_terminals() -> None:
    domain = parse_domain(with_devices("<serial type='pty'/>"))
    root = etree.fromstring(domain.live_xml(7, {"serial": "/dev/pts/9"}))
    assert root.get("id") == "7"
    assert root.find("devices/console").get("tty") == "/dev/pts/9"
    assert root.find("devices/serial/source").get("path") == "/dev/pts/9"
    assert "id" not in etree.fromstring(domain.xml()).attrib


@pytest.mark.parametrize(
    ("devices", "note"),
    [
        ("<interface type='user'/>", "a network interface is not there"),
        ("<graphics type='vnc'/>", "/domain/devices/graphics: a graphics is not there"),
        ("<console type='tcp'/>", "a console of type 'tcp' is not there; it is a pty"),
        (
            "<disk type='file'><driver type='qcow2'/><source file='/q'/><target dev='vdb'/></disk>",
            "disk vdb left out: format 'qcow2' is not there; qemu-img convert -O raw /q /q.raw",
        ),
        (
            "<disk type='file'><source file='/s'/><target dev='sda' bus='sata'/></disk>",
            "disk sda on bus sata is virtio disk vdb",
        ),
        ("<disk type='network'><target dev='vdb'/></disk>", "a source of type 'network'"),
        (
            "<disk type='volume'><source pool='p'/><target dev='vdb'/></disk>",
            "a source of type 'volume'",
        ),
        ("<disk device='cdrom'><target dev='sda'/></disk>", "an empty cdrom drive"),
    ],
)
def test_what_is_not_there_is_said_with_its_line(devices: str, note: str) -> None:
    (said,) = parse_domain(with_devices(devices)).notes
    assert said.startswith("line 11, /domain/devices/"), said
    assert note in said


def test_the_machine_and_the_processor_are_said() -> None:
    xml = changed(
        ("<type>", "<type machine='pc-q35-7.2'>"),
        ("  <devices>", "<cpu><model>Skylake</model></cpu><sysinfo/>\n  <devices>"),
    )
    notes = "\n".join(parse_domain(xml).notes)
    assert "line 5, /domain/os/type: the machine is our board microvm, not pc-q35-7.2" in notes
    assert "the processor is our model host, not 'Skylake'" in notes
    assert "/domain/sysinfo: has no effect" in notes


ROOT_DISK = "<disk type='file'><source file='/a.img'/><target dev='vda' bus='virtio'/></disk>"
REFUSALS: Mapping[str, tuple[str, str, str]] = {
    # name: (old, new, what is said)
    "type": ("type='kvm'", "type='xen'", "line 1, /domain: type 'xen' is not there; use"),
    "no name": ("<name>plain</name>", "", "/domain: has no <name>; add <name>"),
    "slash": (">plain<", ">a/b<", "line 2, /domain/name: the name 'a/b' contains '/'; choose"),
    "dots": (">plain<", ">..<", "begins with a dot"),
    "newline": (">plain<", ">a\nb<", "control character"),
    "long": (">plain<", f">{'x' * 300}<", "has 300 bytes, more than 200"),
    "uuid": ("<memory", "<uuid>12</uuid><memory", "/domain/uuid: '12' is not a UUID; give 32"),
    "unit": ("unit='MiB'", "unit='MIP'", "line 3, /domain/memory: 'MIP' is not a unit"),
    "size": (">64<", ">-64<", "/domain/memory: '-64' is not a size; give a number"),
    "too much": (">64<", ">1048577<", "cannot be; give 4 MiB to 1 TiB"),
    "too little": (">64<", ">3<", "cannot be; give 4 MiB to 1 TiB"),
    "no memory": ("<memory unit='MiB'>64</memory>", "", "has no <memory>; add"),
    "vcpus": ("<os>", "<vcpu>0</vcpu><os>", "/domain/vcpu: '0' is not a number of processors"),
    "kernel": ("<kernel>/boot/vmlinuz</kernel>", "", "line 4, /domain/os: has no <kernel>"),
    "relative": (">/boot/vmlinuz<", ">vmlinuz<", "/domain/os/kernel: 'vmlinuz' is not an absolute"),
    "arch": ("<type>", "<type arch='aarch64'>", "a processor 'aarch64' is not there"),
    "os": ("hvm", "xen", "/domain/os/type: the type is not hvm; write"),
    "action": ("<os>", "<on_crash>dance</on_crash><os>", "'dance' is not an action; use one of"),
    "root disk": (
        ROOT_DISK,
        ROOT_DISK.replace("<source", "<driver type='qcow2'/><source"),
        "line 10, /domain/devices/disk: the root disk cannot be had: format 'qcow2'",
    ),
    "two disks": (ROOT_DISK, ROOT_DISK * 2, "a second disk 'vda'; give it a target of its own"),
    "unix": ("</devices>", "<serial type='unix'/></devices>", "needs an absolute path; add"),
    "entity": ("<domain", "<!DOCTYPE d [<!ENTITY x 'y'>]>\n<domain", "line 1: document types"),
    "broken": ("</os>", "", "(domain_definition):"),
    "root": ("domain", "network", "line 1, /network: is not <domain>; give"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_line_path_and_remedy(name: str) -> None:
    old, new, said = REFUSALS[name]
    with pytest.raises(VirError) as refusal:
        parse_domain(changed((old, new)))
    assert said in str(refusal.value)
    assert ";" in str(refusal.value)  # a remedy
    assert refusal.value.code in (Code.XML_ERROR, Code.XML_DETAIL, Code.CONFIG_UNSUPPORTED)


def _laughs() -> str:
    entities = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10 if n else 'ha'}'>" for n in range(10))
    return f"<!DOCTYPE d [{entities}]>" + PLAIN.replace("plain", "&l9;")


@pytest.mark.parametrize(
    "text",
    [
        _laughs(),
        "<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>" + PLAIN.replace("plain", "&f;"),
        PLAIN.replace("plain", "&undefined;"),
        "<a>" * 100_000,
        "<domain>" + "<x/>" * 1_000_000,
        PLAIN.replace("<name>", "<name>\0"),
        PLAIN.replace("kvm", "k\ud800".encode("utf-8", "replace").decode()),
        "",
        "\x00\x01\x02",
        "<domain " + " ".join(f"a{n}='{n}'" for n in range(100_000)) + "/>",
    ],
    ids=[
        "laughs",
        "file",
        "undefined",
        "deep",
        "big",
        "nul",
        "odd",
        "empty",
        "binary",
        "attributes",
    ],
)
def test_hostile_xml_is_refused_at_once(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(VirError):
        parse_domain(text)
    assert time.process_time() - begun < 5


RICH = with_devices(
    "<serial type='pty'><log file='/l'/></serial><console type='unix'><source path='/s'/>"
    "<target type='virtio'/></console><interface type='user'/><rng model='virtio'/>"
).replace(
    "<os>",
    "<uuid>00000000-0000-4000-8000-000000000001</uuid><currentMemory>1</currentMemory>"
    "<vcpu current='1'>2</vcpu><cpu mode='custom'><model>x</model><topology cores='1'/></cpu>"
    "<on_crash>coredump-restart</on_crash><clock offset='localtime'/><os>",
)
_WORDS = re.findall(r"</?[\w ='/.:-]+/?>|[^<>]+", RICH)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mangled_xml_is_refused_or_understood(data: st.DataObject) -> None:
    """Words of a rich definition left out, doubled, moved or replaced."""
    words = list(_WORDS)
    for _ in range(data.draw(st.integers(1, 4))):
        at, other = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
        change = data.draw(st.sampled_from(["drop", "double", "move", "text", "close"]))
        if change == "drop":
            del words[at]
        elif change == "double":
            words.insert(at, words[at])
        elif change == "move":
            words.insert(at, words.pop(other))
        elif change == "close":  # an element without content
            words[at] = re.sub(r"^(<[^/].*[^/])>$", r"\1/>", words[at])
        else:
            words[at] = data.draw(st.text(max_size=8))
    try:
        domain = parse_domain("".join(words))
    except VirError:
        return
    description(domain)
    domain.live_xml(1, {"serial": "/dev/pts/1", "virtio": "/s"})
    again = parse_domain(domain.xml())
    assert (again.name, again.uuid, again.xml()) == (domain.name, domain.uuid, domain.xml())
