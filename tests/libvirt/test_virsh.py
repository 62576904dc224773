"""Debian's virsh on our daemon, as far as no guest is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libvirtish.xml.schema import DOMAIN_RNG
from tests.libvirt.daemon import Daemon, domain_xml

LAUGHS = "<!DOCTYPE d [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>"


@pytest.fixture(autouse=True)
def _nothing_stays(quiet_daemon: Daemon) -> Iterator[None]:
    yield
    for name in quiet_daemon.ok("list", "--all", "--name").splitlines():
        quiet_daemon.ok("undefine", name)


def test_the_connection(quiet_daemon: Daemon) -> None:
    assert quiet_daemon.ok("uri") == quiet_daemon.uri
    assert quiet_daemon.ok("hostname") == os.uname().nodename
    assert "Running hypervisor: QEMU 0.1.0" in quiet_daemon.ok("version")
    assert f"CPU(s):              {os.cpu_count()}" in quiet_daemon.ok("nodeinfo")
    capabilities = quiet_daemon.ok("capabilities")
    assert '<domain type="kvm"/>' in capabilities
    assert '<domain type="qemu"/>' in capabilities
    assert "<value>virtio</value>" in quiet_daemon.ok("domcapabilities")
    assert quiet_daemon.ok("maxvcpus") == "255"


def test_defined_listed_renamed_undefined(quiet_daemon: Daemon) -> None:
    path = quiet_daemon.file("one.xml", domain_xml("one", 1))
    assert quiet_daemon.ok("define", path) == f"Domain 'one' defined from {path}"
    assert quiet_daemon.ok("list", "--all").splitlines()[2].split() == ["-", "one", "shut", "off"]
    assert quiet_daemon.ok("list", "--name") == ""
    assert quiet_daemon.ok("domuuid", "one") == "00000000-0000-4000-8000-000000000001"
    assert quiet_daemon.ok("domname", "00000000-0000-4000-8000-000000000001") == "one"
    assert quiet_daemon.ok("domstate", "one") == "shut off"
    assert quiet_daemon.ok("autostart", "one") == "Domain 'one' marked as autostarted"
    assert quiet_daemon.ok("list", "--all", "--autostart", "--name") == "one"
    assert "Autostart:      enable" in quiet_daemon.ok("dominfo", "one")
    quiet_daemon.ok("domrename", "one", "two")
    assert "Autostart:      enable" in quiet_daemon.ok("dominfo", "two")
    assert "<name>two</name>" in quiet_daemon.ok("dumpxml", "two")
    assert os.listdir(quiet_daemon.state / "domains") == ["two.xml"]
    quiet_daemon.ok("autostart", "two", "--disable")
    quiet_daemon.ok("undefine", "two")
    assert os.listdir(quiet_daemon.state / "domains") == []
    assert quiet_daemon.ok("list", "--all", "--name") == ""


def test_defined_again_it_is_another_definition(quiet_daemon: Daemon) -> None:
    quiet_daemon.define("one")
    quiet_daemon.ok("define", quiet_daemon.file("one.xml", domain_xml("one", 1, memory=256)))
    assert "Max memory:     262144 KiB" in quiet_daemon.ok("dominfo", "one")
    without = domain_xml("one", 1, memory=96).splitlines(keepends=True)
    without = [line for line in without if "<uuid>" not in line]
    quiet_daemon.ok("define", quiet_daemon.file("one.xml", "".join(without)))
    assert quiet_daemon.ok("domuuid", "one").endswith("000000000001")


def test_what_is_asked_for_and_not_there_is_said(quiet_daemon: Daemon) -> None:
    xml = domain_xml("rich").replace("<devices>", "<devices><graphics type='vnc'/>")
    quiet_daemon.ok("define", quiet_daemon.file("rich.xml", xml))
    text = "/domain/devices/graphics: a graphics is not there"
    assert text in quiet_daemon.ok("dominfo", "rich")
    quiet_daemon.expect_log(f"domain rich: line 11, {text}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (">bad<", ">a/b<", "line 2, /domain/name: the name 'a/b' contains '/'"),
        ("unit='MiB'", "unit='x'", "line 4, /domain/memory: 'x' is not a unit of memory; use"),
        ("</os>", "", "(domain_definition):"),
        ("8000-000000000002", "8000-000000000001", "domain 'good' is already defined with uuid"),
        (">bad<", ">good<", "domain 'good' already exists with uuid 00000000-0000-4000-8000-0"),
    ],
)
def test_a_refusal_reaches_the_user(quiet_daemon: Daemon, old: str, new: str, said: str) -> None:
    quiet_daemon.define("good", 1)
    xml = domain_xml("bad", 2)
    assert old in xml
    path = quiet_daemon.file("bad.xml", xml.replace(old, new))
    errors = quiet_daemon.refused("define", path)
    assert errors.startswith(f"error: Failed to define domain from {path}\nerror: ")
    assert said in errors
    assert quiet_daemon.ok("list", "--all", "--name") == "good"
    assert os.listdir(quiet_daemon.state / "domains") == ["good.xml"]


def test_validated_by_libvirt_s_schema(
    quiet_daemon: Daemon, need: Callable[[object, str], None]
) -> None:
    need(DOMAIN_RNG.is_file(), "libvirt's schemas (libvirt0)")
    quiet_daemon.ok("define", "--validate", quiet_daemon.file("one.xml", domain_xml("one")))
    # What we give back is valid too, with all that was filled in.
    again = quiet_daemon.file("again.xml", quiet_daemon.ok("dumpxml", "one"))
    quiet_daemon.ok("define", "--validate", again)
    bad = quiet_daemon.file("bad.xml", domain_xml("one").replace("<devices>", "<devices><dance/>"))
    errors = quiet_daemon.refused("define", "--validate", bad)
    assert "XML document failed to validate against schema: line " in errors
    assert "/domain/devices" in errors
    quiet_daemon.ok("define", bad)


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "no-such"])
def test_a_declared_encoding_does_not_matter(quiet_daemon: Daemon, encoding: str) -> None:
    """The wire carries UTF-8, with a UUID or without."""
    xml = f"<?xml version='1.0' encoding='{encoding}'?>{domain_xml('café')}"
    head, rest = xml.split("<uuid>")
    xml = head + rest.split("</uuid>")[1]
    for _ in range(2):
        quiet_daemon.ok("define", quiet_daemon.file("it.xml", xml))
    assert quiet_daemon.ok("list", "--all", "--name") == "café"


def test_a_domain_without_a_kernel(quiet_daemon: Daemon) -> None:
    xml = "".join(line for line in domain_xml("bad").splitlines(True) if "<kernel>" not in line)
    errors = quiet_daemon.refused("define", quiet_daemon.file("bad.xml", xml))
    assert "unsupported configuration: line 5, /domain/os: has no <kernel>" in errors
    assert "add <kernel>/path/of/vmlinuz</kernel>" in errors


def test_a_billion_laughs(quiet_daemon: Daemon) -> None:
    errors = quiet_daemon.refused("define", quiet_daemon.file("bad.xml", LAUGHS))
    assert "line 1: document types and entities are not taken; remove them" in errors


def test_a_kernel_that_is_gone_is_said_at_the_start(quiet_daemon: Daemon) -> None:
    xml = domain_xml("gone").replace("/vmlinuz", "/nowhere")
    quiet_daemon.ok("define", quiet_daemon.file("gone.xml", xml))
    errors = quiet_daemon.refused("start", "gone")
    assert "/nowhere: No such file or directory" in errors
    assert quiet_daemon.ok("domstate", "gone") == "shut off"


def test_a_kernel_that_is_none_fails_with_the_vmm_s_words(
    quiet_daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"not a kernel" * 1000)
    xml = domain_xml("odd")
    start = xml.index("<kernel>")
    end = xml.index("</kernel>")
    xml = f"{xml[:start]}<kernel>{tmp_path}/vmlinuz{xml[end:]}"
    quiet_daemon.ok("define", quiet_daemon.file("odd.xml", xml))
    errors = quiet_daemon.refused("start", "odd")
    assert "domain 'odd' did not start: " in errors
    assert "vmlinuz" in errors
    assert quiet_daemon.ok("domstate", "odd", "--reason") == "shut off (failed)"
    assert os.listdir(quiet_daemon.state / "run") == []


@pytest.mark.parametrize("what", ["kernel", "initrd", "disk"])
def test_a_file_that_nobody_writes_to_holds_nothing_up(
    quiet_daemon: Daemon, tmp_path: Path, what: str
) -> None:
    """To open a FIFO may take for ever."""
    os.mkfifo(tmp_path / "fifo")
    disk = f"<disk><source file='{tmp_path}/fifo'/><target dev='vda'/></disk>"
    xml = domain_xml("odd")
    if what == "disk":
        xml = xml.replace("</devices>", f"{disk}</devices>")
    else:
        start, end = xml.index(f"<{what}>"), xml.index(f"</{what}>")
        xml = f"{xml[:start]}<{what}>{tmp_path}/fifo{xml[end:]}"
    quiet_daemon.ok("define", quiet_daemon.file("odd.xml", xml))
    errors = quiet_daemon.refused("start", "odd")
    assert "domain 'odd' did not start: " in errors
    assert "fifo: is not a" in errors


@pytest.mark.parametrize(
    "words",
    [
        ("destroy", "off"),
        ("suspend", "off"),
        ("resume", "off"),
        ("shutdown", "off"),
        ("reboot", "off"),
        ("console", "off"),
        ("start", "nobody"),
        ("net-dumpxml", "default"),
        ("attach-device", "off", "off.xml"),
        ("domrename", "off", "a/b"),
        ("shutdown", "off", "--mode", "agent"),
        ("qemu-monitor-command", "off", "x"),
    ],
)
def test_what_cannot_be_fails_and_leaves_the_daemon_well(
    quiet_daemon: Daemon, words: tuple[str, ...]
) -> None:
    quiet_daemon.define("off")
    assert quiet_daemon.refused(*words).startswith("error: ")


@pytest.mark.parametrize(
    "what", ["net-list", "pool-list", "iface-list", "nodedev-list", "nwfilter-list", "secret-list"]
)
def test_of_other_things_there_are_none(quiet_daemon: Daemon, what: str) -> None:
    assert len(quiet_daemon.ok(what).splitlines()) <= 2  # a header and its rule


def test_a_name_of_another_alphabet(quiet_daemon: Daemon) -> None:
    quiet_daemon.ok("define", quiet_daemon.file("x.xml", domain_xml("Größe &amp; é")))
    assert "Größe & é" in quiet_daemon.ok("list", "--all", "--name")
