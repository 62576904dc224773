"""The house from top to bottom: real clients, a real guest, and a daemon that is killed in between.

The tests of this file share one guest and run in this order; the last ones end it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lxml import etree

from libvirtish.rpc import types as t
from libvirtish.rpc import xdr
from libvirtish.rpc.client import RemoteError
from libvirtish.rpc.frame import Frame, Kind
from libvirtish.rpc.procedures import BY_NAME, REMOTE_PROGRAM
from tests.boot.terminal import Terminal
from tests.libvirt.conftest import DISK_MARK
from tests.libvirt.daemon import BIN, LIMIT_S, PROMPT, Daemon, domain_xml, until
from vmmuser.assets import USERLAND_MARK

SYSTEM_PYTHON = "/usr/bin/python3"  # which has Debian's python3-libvirt


@contextlib.contextmanager
def attached(daemon: Daemon, *options: str, program: str = "virsh") -> Iterator[Terminal]:
    """A console with the guest's prompt on it."""
    console = daemon.console("demo", *options, program=program)
    try:
        console.expect(b"Escape character is ^]")
        for _ in range(30):  # what is typed before virsh has the terminal raw is lost
            console.type(b"\n")
            with contextlib.suppress(AssertionError):
                console.expect(PROMPT, 0.5)
                break
        yield console
    finally:
        console.close()


def answers(console: Terminal, number: int) -> None:
    """A command's output, which is not what was typed."""
    console.type(f"echo $(({number} * 1001))-there\n".encode())
    console.expect(f"{number * 1001}-there".encode())


def leave(console: Terminal) -> None:
    console.type(b"\x1d")
    assert console.wait() == 0


@pytest.fixture
def events(house: Daemon) -> Iterator[Callable[[str], None]]:
    """events(text): what `virsh event` prints next has the text."""
    listener = Terminal(command=["virsh", "-c", house.uri, "event", "--all", "--loop"])
    for _ in range(20):  # until it prints something, it may not yet have subscribed
        house.define("probe", 99)
        house.ok("undefine", "probe")
        with contextlib.suppress(AssertionError):
            listener.expect(b"'probe': Undefined Removed", 0.5)
            break
    yield lambda text: listener.expect(text.encode())
    listener.close()


def test_the_guest_runs(house: Daemon) -> None:
    assert house.ok("list").splitlines()[2].split() == ["1", "demo", "running"]
    assert house.ok("domstate", "demo", "--reason") == "running (booted)"
    assert house.ok("domid", "demo") == "1"
    assert house.ok("domname", "1") == "demo"
    info = house.ok("dominfo", "demo")
    assert "CPU time:" in info
    assert "Persistent:     yes" in info
    assert "state.state=1" in house.ok("domstats", "demo")
    assert "rss" in house.ok("dommemstat", "demo")
    assert house.ok("domcontrol", "demo") == "ok"
    tty = etree.fromstring(house.ok("dumpxml", "demo")).find("devices/console").get("tty")
    assert house.ok("ttyconsole", "demo") == tty
    assert Path(tty).is_char_device()


def test_the_console_shows_the_shell_and_still_does_after_a_kill_of_the_daemon(
    house: Daemon,
) -> None:
    pid = house.vmm_pid("demo")
    with attached(house) as console:
        answers(console, 7)
        house.kill()
        console.expect(b"error: Disconnected from")
    house.start()
    house.expect_log(f"domain demo: found again, id 1, process {pid}")
    assert house.vmm_pid("demo") == pid
    assert house.ok("domstate", "demo", "--reason") == "running (unknown)"
    with attached(house) as console:
        answers(console, 8)
        leave(console)


def test_a_restart_of_the_daemon_keeps_the_guest(house: Daemon) -> None:
    assert house.stop() == 0
    assert not house.socket.exists()
    house.start()
    with attached(house, program="virtish") as console:
        answers(console, 9)
        leave(console)


def test_its_disk_and_its_virtio_console(house: Daemon) -> None:
    with attached(house) as console:
        console.type(b"head -n 1 /dev/vda; echo on-the-$((1))-other >/dev/hvc0\n")
        console.expect(DISK_MARK.strip())
        console.expect(PROMPT)
        leave(console)
    other = house.console("demo", "--devname", "console0")
    other.expect(b"on-the-1-other")
    leave(other)
    other.close()
    wrong = house.console("demo", "--devname", "x")
    wrong.expect(b"it has: serial0, console0")
    wrong.close()
    assert house.ok("domblklist", "demo").split()[-1] == str(house.directory / "disk.img")


def test_one_console_at_a_time_and_force_takes_it(house: Daemon) -> None:
    with attached(house) as first:
        second = house.console("demo")
        second.expect(b"Active console session exists for this domain")
        second.wait()
        second.close()
        with attached(house, "--force") as third:
            first.wait()
            answers(third, 3)
            leave(third)


def test_much_output_reaches_the_client_whole(house: Daemon) -> None:
    with attached(house) as console:
        console.type(b"seq 3000; echo the-$((1))-end\n")
        console.expect(b"the-1-end")
        lines = console.text.decode(errors="replace").replace("\r", "").split("\n")
        numbers = [int(line) for line in lines if line.isdecimal()]
        assert numbers == list(range(1, 3001))
        leave(console)


def test_suspended_and_resumed(house: Daemon, events: Callable[[str], None]) -> None:
    pid = house.vmm_pid("demo")
    assert house.ok("suspend", "demo") == "Domain 'demo' suspended"
    events("event 'lifecycle' for domain 'demo': Suspended Paused")
    assert house.ok("domstate", "demo", "--reason") == "paused (user)"
    house.kill()
    house.start()
    assert house.vmm_pid("demo") == pid
    assert house.ok("domstate", "demo", "--reason") == "paused (user)"
    assert house.ok("resume", "demo") == "Domain 'demo' resumed"
    assert house.ok("domstate", "demo", "--reason") == "running (unpaused)"
    with attached(house) as console:
        answers(console, 4)
        leave(console)


def test_the_monitor_by_way_of_virsh(house: Daemon, events: Callable[[str], None]) -> None:
    answer = house.ok("qemu-monitor-command", "demo", '{"execute": "query-status"}')
    assert json.loads(answer)["return"]["status"] == "running"
    answer = house.ok("qemu-monitor-command", "demo", '{"execute": "dance"}')
    assert "error" in json.loads(answer)
    # What another monitor does is noticed.
    house.ok("qemu-monitor-command", "demo", '{"execute": "stop"}')
    events("Suspended Paused")
    house.ok("qemu-monitor-command", "demo", '{"execute": "cont"}')
    events("Resumed Unpaused")


def test_a_running_domain_is_defined_anew(house: Daemon) -> None:
    before = house.ok("dumpxml", "demo")
    xml = house.ok("dumpxml", "demo", "--inactive").replace("262144", "131072")
    house.ok("define", house.file("demo.xml", xml))
    assert house.ok("dumpxml", "demo") == before
    assert "131072" in house.ok("dumpxml", "demo", "--inactive")
    assert "Used memory:    262144 KiB" in house.ok("dominfo", "demo")
    house.ok("define", house.file("demo.xml", xml.replace("131072", "262144")))


PYTHON_CLIENT = """
import sys, threading, libvirt
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
conn = libvirt.open(sys.argv[1])
conn.setKeepAlive(1, 3)
seen, enough = [], threading.Event()
def told(conn, dom, event, detail, opaque):
    seen.append((dom.name(), event, detail, opaque))
    if len(seen) >= 8:
        enough.set()
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, told, "new")
conn.domainEventRegister(told, "old")
print(sorted(dom.name() for dom in conn.listAllDomains()))
dom = conn.defineXML(open(sys.argv[2]).read())
dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
print(dom.state(), dom.isActive(), dom.info()[:2])
dom.destroy()
assert enough.wait(20), seen
dom.undefine()
for way in "new", "old":
    print(way, [each[1:3] for each in seen if each[3] == way and each[1] != 1])
try:
    conn.lookupByName("nobody")
except libvirt.libvirtError as error:
    print(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)
"""


def test_libvirt_python_lists_starts_and_hears(
    house: Daemon, need: Callable[[object, str], None]
) -> None:
    there = subprocess.run([SYSTEM_PYTHON, "-c", "import libvirt"], check=False).returncode == 0
    need(there, "python3-libvirt")
    path = house.file("python.xml", domain_xml("python", 5))
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", PYTHON_CLIENT, house.uri, path],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # defined, started, suspended, stopped (destroyed)
    steps = "[(0, 0), (2, 0), (3, 0), (5, 1)]"
    assert done.stdout.splitlines() == [
        "['demo']",
        "[3, 1] 1 [3, 131072]",
        f"new {steps}",
        f"old {steps}",
        "True",
    ]


PYTHON_ASKS = """
import sys, libvirt
conn = libvirt.open(sys.argv[1])
dom = conn.lookupByID(conn.listDomainsID()[0])
print(conn.numOfDomains(), conn.numOfDefinedDomains(), conn.listDefinedDomains())
print(conn.isSecure(), conn.isAlive(), conn.isEncrypted(), conn.getType(), conn.getVersion())
print(conn.getLibVersion(), conn.getMaxVcpus("kvm"), conn.getURI() == sys.argv[1])
print(conn.getInfo()[0], conn.getHostname() == __import__("socket").gethostname())
print(dom.name(), dom.OSType(), dom.maxMemory(), dom.maxVcpus(), dom.vcpusFlags(), dom.autostart())
print(dom.isActive(), dom.isPersistent(), dom.isUpdated(), dom.hasManagedSaveImage())
print(dom.controlInfo()[:2], dom.snapshotNum(), dom.listAllSnapshots(), conn.listAllNetworks())
print(sorted(dom.memoryStats()), sorted(conn.getAllDomainStats()[0][1])[:3])
print([each.name() for each in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)])
print(conn.lookupByUUIDString(dom.UUIDString()).ID() == dom.ID())
try:
    conn.createXML("<domain/>")
except libvirt.libvirtError as error:
    print(error.get_error_code() == libvirt.VIR_ERR_XML_ERROR, error.get_error_domain())
try:
    dom.create()
except libvirt.libvirtError as error:
    print(error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID, error.get_error_level())
"""


def test_libvirt_python_understands_every_answer(
    house: Daemon, need: Callable[[object, str], None]
) -> None:
    there = subprocess.run([SYSTEM_PYTHON, "-c", "import libvirt"], check=False).returncode == 0
    need(there, "python3-libvirt")
    done = house.run(SYSTEM_PYTHON, "-c", PYTHON_ASKS, house.uri)
    assert done.stdout.splitlines() == [
        "1 0 []",
        "1 1 0 QEMU 1000",
        "9000000 255 True",
        f"{os.uname().machine} True",
        "demo hvm 262144 1 1 0",
        "1 1 1 0",  # updated: it was defined anew while it runs
        "[0, 0] 0 [] []",
        "['actual', 'rss'] ['balloon.current', 'balloon.maximum', 'balloon.rss']",
        "['demo']",
        "True",
        "True 10",
        "True 2",
    ], done.stderr


def test_events_the_oldest_way(house: Daemon) -> None:
    connection = house.connect()
    connection.call("connect_domain_event_register")
    house.define("old", 6)
    name, message = connection.next_event(LIMIT_S) or ("", None)
    assert name == "domain_event_lifecycle"
    assert message.dom.name == "old"  # type: ignore[union-attr]
    connection.call("connect_domain_event_deregister")
    house.ok("undefine", "old")
    assert connection.next_event(0.05) is None
    connection.close()


def test_a_transient_domain_is_gone_when_it_stops(
    house: Daemon, events: Callable[[str], None]
) -> None:
    path = house.file("short.xml", domain_xml("short", 7))
    assert house.ok("create", path, "--paused") == f"Domain 'short' created from {path}"
    events("event 'lifecycle' for domain 'short': Started Booted")
    assert "Persistent:     no" in house.ok("dominfo", "short")
    house.kill()
    house.start()  # a transient domain too is found again
    assert house.ok("list", "--name", "--transient") == "short"
    assert house.ok("domstate", "short", "--reason") == "paused (user)"
    house.ok("destroy", "short")
    assert "failed to get domain 'short'" in house.refused("domstate", "short")


def test_a_killed_vmm_is_a_crashed_domain_and_the_others_run(
    house: Daemon, events: Callable[[str], None]
) -> None:
    house.define("victim", 8)
    house.ok("start", "victim")
    os.kill(house.vmm_pid("victim"), signal.SIGKILL)
    events("event 'lifecycle' for domain 'victim': Stopped Crashed")
    assert house.ok("domstate", "victim", "--reason") == "shut off (crashed)"
    house.expect_log("domain victim: its VMM process")
    assert house.ok("domstate", "demo") == "running"
    house.ok("start", "victim", "--paused")
    # one that does not even heed SIGTERM is ended all the same
    os.kill(house.vmm_pid("victim"), signal.SIGSTOP)
    assert house.ok("destroy", "victim") == "Domain 'victim' destroyed"
    assert house.ok("domstate", "victim", "--reason") == "shut off (destroyed)"
    house.ok("undefine", "victim")
    with attached(house) as console:
        answers(console, 5)
        leave(console)


def test_a_vmm_that_dies_while_no_daemon_runs(house: Daemon) -> None:
    house.define("victim", 8)
    house.ok("start", "victim", "--paused")
    pid = house.vmm_pid("victim")
    house.kill()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}/cwd").exists(), "the end of the VMM")
    house.start()
    house.expect_log("domain victim: stopped while no daemon ran")
    assert house.ok("domstate", "victim") == "shut off"
    assert house.ok("domstate", "demo") == "running"
    house.ok("undefine", "victim")


def test_a_vmm_that_does_not_answer_is_still_the_domain_s(house: Daemon) -> None:
    """A daemon that finds it stopped has it in the list, can end it, or goes on when it does."""
    house.define("stuck", 8)
    house.ok("start", "stuck", "--paused")
    pid = house.vmm_pid("stuck")
    house.kill()
    os.kill(pid, signal.SIGSTOP)
    house.start()
    assert house.ok("domstate", "stuck") == "no state"
    assert house.ok("domcontrol", "stuck").startswith("error")
    assert "there is no monitor" in house.refused("resume", "stuck")
    assert "already active" in house.refused("start", "stuck")
    os.kill(pid, signal.SIGCONT)
    until(lambda: house.ok("domstate", "stuck", "--reason") == "paused (user)", "its monitor")
    os.kill(pid, signal.SIGSTOP)
    house.ok("destroy", "stuck")
    house.ok("undefine", "stuck")
    assert house.ok("domstate", "demo") == "running"


def test_a_client_that_leaves_in_the_middle_of_a_start(house: Daemon) -> None:
    house.define("left", 8)
    connection = house.connect()
    dom = connection.ask(t.OneDomain, "domain_lookup_by_name", t.OneStr("left")).dom
    number, payload = BY_NAME["domain_create"].number, xdr.encode(t.OneDomain(dom))
    connection._send(Frame(REMOTE_PROGRAM, number, Kind.CALL, 9, payload=payload))
    until(lambda: (house.state / "run" / "left").exists(), "it begins to start")
    connection._socket.close()
    until(lambda: house.ok("domstate", "left") == "running", "it has started")
    house.ok("destroy", "left")
    house.ok("undefine", "left")


def test_a_guest_that_does_not_read_its_console(house: Daemon) -> None:
    """What a client types is not piled up for ever; the end of the guest ends the console."""
    house.define("deaf", 8)
    house.ok("start", "deaf", "--paused")
    connection = house.connect()
    dom = connection.ask(t.OneDomain, "domain_lookup_by_name", t.OneStr("deaf")).dom
    stream = connection.open_stream("domain_open_console", t.OpenConsoleArgs(dom, None, 0))
    stream.send(b"x" * (4 << 20))
    with pytest.raises(RemoteError, match="the guest does not read its console"):
        all(iter(lambda: stream.receive(LIMIT_S), b""))
    stream = connection.open_stream("domain_open_console", t.OpenConsoleArgs(dom, None, 0))
    house.ok("destroy", "deaf")
    while data := stream.receive(LIMIT_S):
        assert set(data) <= set(b"x")
    assert data == b""
    connection.close()
    house.ok("undefine", "deaf")


def test_a_second_daemon_is_told_no(house: Daemon) -> None:
    for options, said in (
        (("--state", str(house.state)), "another libvirtishd owns this state"),
        (("--state", str(house.directory / "other")), "another daemon listens there"),
    ):
        done = house.run(BIN / "libvirtishd", "--socket", house.socket, *options)
        assert done.returncode == 2
        assert said in done.stderr
    assert house.ok("domstate", "demo") == "running"


def test_rebooted_it_is_the_same_domain(house: Daemon, events: Callable[[str], None]) -> None:
    pid = house.vmm_pid("demo")
    assert house.ok("reboot", "demo") == "Domain 'demo' is being rebooted"
    events("event 'reboot' for domain 'demo'")
    with contextlib.closing(house.console("demo")) as console:
        console.expect(USERLAND_MARK.encode(), 90)  # a prompt from before may not have been read
        console.expect(PROMPT)
        answers(console, 6)
        leave(console)
    assert house.vmm_pid("demo") == pid
    assert house.ok("domid", "demo") == "1"


def test_shut_down_by_the_power_button_while_the_daemon_is_away(house: Daemon) -> None:
    """The guest powers off; the next daemon learns that it did."""
    pid = house.vmm_pid("demo")
    with attached(house) as console:
        console.type(b"(sleep 1; poweroff -f) &\n")
        console.expect(PROMPT)
        leave(console)
    house.kill()
    began = time.monotonic()
    log = len(house.log)
    until(lambda: time.monotonic() > began + 1.5, "the guest has powered off")
    house.start()
    house.expect_log("domain demo: stopped: shutdown", log)
    assert house.ok("domstate", "demo", "--reason") == "shut off (shutdown)"
    assert not Path(f"/proc/{pid}/cwd").exists()
